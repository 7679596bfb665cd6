//! What is run, asked and told around a backup and a restore.

mod house;

use house::{House, rows};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Answers every request with what `status` says of its path while `work` runs; gives the paths.
fn serving(status: impl Fn(&str) -> u16 + Sync, work: impl FnOnce(&str)) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut asked = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut request = [0; 2048];
                let got = stream.read(&mut request).unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..got]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or("").to_owned();
                let answer = format!("HTTP/1.1 {} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", status(&path));
                let _ = stream.write_all(answer.as_bytes());
                if path == "/stop" {
                    return asked;
                }
                asked.push(path);
            }
            asked
        });
        // The server must be told to stop, whatever came of the work.
        let worked = catch_unwind(AssertUnwindSafe(|| work(&format!("http://{address}"))));
        let mut stop = TcpStream::connect(address).expect("the server");
        stop.write_all(b"GET /stop HTTP/1.1\r\n\r\n").expect("written");
        let asked = server.join().expect("the server ends");
        worked.map_or_else(|panic| resume_unwind(panic), |()| asked)
    })
}

fn settings(house: &House, text: &str) {
    let path = house.path("backstay.toml");
    let mut all = fs::read_to_string(&path).expect("a file");
    all.push_str(text);
    fs::write(path, all).expect("written");
}

#[test]
fn a_backup_is_told_about_and_hooks_learn_what_it_is_of() {
    let house = House::new();
    let asked = serving(
        |_| 200,
        |url| {
            settings(
                &house,
                &format!(
                    "\n[hooks.before_backup]\nrun = \"env > before.env\"\n\
                     [hooks.after_backup]\nrun = [\"sh\", \"-c\", \"env > after.env; echo told\"]\n\
                     [sources.shop.ping]\nurl = \"{url}/uuid\"\n"
                ),
            );
            let mut command = house.command(&["backup"]);
            command.env("BACKSTAY_KEY_FILE", house.path("backstay.key")).env("AWS_SECRET_ACCESS_KEY", "hush");
            let (exit, out, err) = house::ended(command.output().expect("it runs"));
            assert_eq!(exit, 0, "{out}{err}");
            assert!(err.contains("after_backup: told"), "what a hook says is on stderr: {err}");
        },
    );
    assert_eq!(asked, ["/uuid/start", "/uuid"]);
    let env = |name: &str| fs::read_to_string(house.path(name)).expect("the environment");
    let database = house.path("shop.db").canonicalize().expect("the path").display().to_string();
    assert!(env("before.env").contains("BACKSTAY_SOURCE=shop\n"));
    assert!(
        env("before.env").lines().any(|line| line.starts_with("BACKSTAY_PATH=") && line.ends_with("shop.db")),
        "{database}"
    );
    let (after, newest) = (env("after.env"), house.newest());
    assert!(
        after.contains("BACKSTAY_VERDICT=pass\n") && after.contains(&format!("BACKSTAY_SNAPSHOT={newest}\n")),
        "{after}"
    );
    assert!(!after.contains("hush") && !after.contains("KEY_FILE"), "nothing that opens anything: {after}");
}

#[test]
fn a_hook_that_fails_before_keeps_the_backup_from_being_made_unless_it_may_fail() {
    let house = House::new();
    let asked = serving(
        |_| 200,
        |url| {
            let ping = format!("\n[ping]\nurl = \"{url}\"\n[hooks.before_backup]\nrun = [\"false\"]\n");
            settings(&house, &ping);
            let (exit, said) = house.json(&["backup"]);
            assert_eq!((exit, &said["sources"][0]["verdict"]), (1, &"fail".into()), "{said:#}");
            assert_eq!(house.snapshots().len(), 1);
        },
    );
    assert_eq!(asked, ["/start", "/fail"]);
    house.edit("backstay.toml", "run = [\"false\"]", "run = [\"false\"]\non_failure = \"warn\"");
    let (exit, out, err) = house.run(&["backup"]);
    assert_eq!(exit, 0, "{out}{err}");
    assert!(err.contains("the hook before_backup of shop failed"), "{err}");
    assert!(err.contains("the ping /start could not be sent"), "nobody listens any more, and that is only said: {err}");
    assert_eq!(house.snapshots().len(), 2);
}

#[test]
fn a_hook_that_does_not_end_is_killed_with_all_it_started() {
    let house = House::new();
    let hook =
        "\n[hooks.before_backup]\nrun = \"(sleep 600; echo late > late) & echo $! > pid; wait\"\ntimeout = \"1s\"\n";
    settings(&house, hook);
    let (exit, said) = house.json(&["backup"]);
    assert_eq!(exit, 1, "{said:#}");
    let outcome = said["sources"][0]["hooks"][0]["outcome"].as_str().expect("words");
    assert!(outcome.contains("killed"), "{outcome}");
    let pid = fs::read_to_string(house.path("pid")).expect("a process");
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z"), "its child is gone too: {state}");
}

#[test]
fn a_restore_in_place_stops_and_starts_and_asks_whether_it_is_well() {
    let house = House::new();
    let old = rows(&house.path("shop.db"));
    house.sql("DELETE FROM item WHERE id > 10");
    let asked = serving(
        |_| 200,
        |url| {
            let hooks = format!(
                "\n[hooks.before_restore]\nrun = \"echo stop >> order\"\n[hooks.after_restore]\nrun = \"echo start $BACKSTAY_VERDICT >> order\"\n\
                 [hooks]\nhealth_url = \"{url}/health\"\n"
            );
            settings(&house, &hooks);
            house.ok(&["restore", "shop", "--to", "beside.db"]);
            assert!(!house.path("order").exists(), "a new file disturbs nobody");
            let (exit, said) = house.json(&["restore", "shop", "--confirm", "shop"]);
            assert_eq!((exit, &said["verdict"]), (0, &"pass".into()), "{said:#}");
        },
    );
    assert_eq!(asked, ["/health"]);
    assert_eq!(fs::read_to_string(house.path("order")).expect("told"), "stop\nstart pass\n");
    assert_eq!(rows(&house.path("shop.db")), old);
}

#[test]
fn a_restored_application_that_is_not_well_is_a_failure_with_a_way_back() {
    let house = House::new();
    house.sql("DELETE FROM item WHERE id > 10; PRAGMA wal_checkpoint(TRUNCATE)");
    let present = rows(&house.path("shop.db"));
    let asked = serving(
        |_| 503,
        |url| {
            settings(&house, &format!("\n[hooks]\nhealth_url = \"{url}/\"\nhealth_deadline = \"1s\"\n"));
            let (exit, said) = house.json(&["restore", "shop", "--confirm", "shop"]);
            assert_eq!((exit, &said["verdict"]), (1, &"fail".into()), "{said:#}");
            assert!(said["hooks"][0]["outcome"].as_str().is_some_and(|words| words.contains("503")), "{said:#}");
            let words = said["way_back"].as_str().expect("a way back");
            let command = words.split_once("then: ").expect("a command").1;
            let done = std::process::Command::new("sh").args(["-c", command]).status().expect("a shell");
            assert!(done.success(), "{command}");
        },
    );
    assert!(asked.len() > 1, "it is asked again until its time is up");
    assert_eq!(rows(&house.path("shop.db")), present, "the way back leads back");
}

#[test]
fn a_restore_that_may_not_begin_leaves_everything_and_still_starts_what_was_stopped() {
    let house = House::new();
    house.sql("DELETE FROM item WHERE id > 10");
    let present = rows(&house.path("shop.db"));
    settings(
        &house,
        "\n[hooks.before_restore]\nrun = [\"false\"]\n[hooks.after_restore]\nrun = \"echo started > started\"\n",
    );
    let (exit, out, err) = house.run(&["restore", "shop", "--confirm", "shop"]);
    assert_eq!(exit, 5, "{out}{err}");
    assert_eq!(rows(&house.path("shop.db")), present);
    assert!(house.path("started").exists());
}

/// A hook that kills the program it was started by, as a machine that goes down while it runs would: at each of the
/// four places nothing before is lost, and the next run goes on.
#[test]
fn killed_while_a_hook_runs_nothing_is_lost_and_the_next_run_goes_on() {
    for hook in ["before_backup", "after_backup", "before_restore", "after_restore"] {
        let house = House::new();
        let (first, oldest) = (rows(&house.path("shop.db")), house.newest());
        house.sql("DELETE FROM item WHERE id > 10");
        let live = rows(&house.path("shop.db"));
        settings(&house, &format!("\n[hooks.{hook}]\nrun = \"kill -9 $PPID\"\n"));
        let is_backup = hook.ends_with("backup");
        let words: &[&str] = if is_backup { &["backup"] } else { &["restore", "shop", "--confirm", "shop"] };
        let killed = house.command(words).output().expect("it runs").status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed), Some(9), "{hook}: {killed}");
        let now = rows(&house.path("shop.db"));
        assert_eq!(
            now,
            if hook == "after_restore" { first.clone() } else { live },
            "{hook}: the one state or the other"
        );
        assert_eq!(house.snapshots().len(), if hook == "after_backup" { 2 } else { 1 }, "{hook}");
        house.edit("backstay.toml", "kill -9 $PPID", "true");
        house.ok(&["restore", "shop", "--snapshot", &oldest, "--to", "oldest.db"]);
        assert_eq!(rows(&house.path("oldest.db")), first, "{hook}: every earlier restore point restores");
        house.ok(words);
        house.ok(&["backup"]);
        house.ok(&["restore", "shop", "--to", "newest.db"]);
        assert_eq!(rows(&house.path("newest.db")), rows(&house.path("shop.db")), "{hook}: the next run goes on");
        house.ok(&["check", "--deep"]);
    }
}
