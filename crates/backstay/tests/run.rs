//! `backstay run` around a small real web application: killed with everything around it, its machine lost, and back
//! on an empty disk with every commit that is older than the shipping interval.

mod house;

use house::{House, INIT};
use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An application as somebody would write it: an HTTP server that keeps orders in SQLite. `POST /order` answers
/// when the order is committed, `GET /orders` counts them, `POST /stop` ends it without another word. SIGTERM ends
/// it with 7, SIGHUP is counted.
const SERVER: &str = r#"
import http.server, os, signal, sqlite3, sys, threading
db = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False)
db.execute("pragma journal_mode=wal")
db.execute("pragma synchronous=normal")
db.execute("create table if not exists ordered(id integer primary key, what text not null)")
lock = threading.Lock()
class Shop(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words): pass
    def answer(self, text):
        body = str(text).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        with lock: self.answer(db.execute("select count(*) from ordered").fetchone()[0])
    def do_POST(self):
        if self.path == "/stop": os._exit(0)
        what = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with lock: self.answer(db.execute("insert into ordered(what) values (?)", (what,)).lastrowid)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
def hup(*_): print("hup", flush=True)
def term(*_): print("term", flush=True); os._exit(7)
signal.signal(signal.SIGHUP, hup); signal.signal(signal.SIGTERM, term)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// Four puts a second, a look each 50 ms, and a slow machine.
const SHIPPED_AFTER: Duration = Duration::from_millis(1500);

/// The binary with the application in it, as a group of its own.
struct Running {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl Running {
    fn begin(house: &House) -> Self {
        fs::write(house.path("server.py"), SERVER).expect("written");
        let mut command = house.command(&[
            "run",
            "--db",
            "shop.db",
            "--durable-within",
            "20s",
            "--",
            "python3",
            "server.py",
            "shop.db",
        ]);
        let log = fs::File::options().create(true).append(true).open(house.path("run.log")).expect("a log");
        command.stdout(Stdio::piped()).stderr(log).process_group(0);
        let mut child = command.spawn().expect("the binary runs");
        let mut running = Self { said: BufReader::new(child.stdout.take().expect("piped")), child, port: 0 };
        let port = running.line();
        running.port = port.parse().unwrap_or_else(|_| panic!("{port:?}: {}", log_of(house)));
        running
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("text");
        line.trim().to_owned()
    }

    fn ask(&self, line: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let head = format!("{line} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.0 200"), "{answer}");
        answer.rsplit("\r\n\r\n").next().expect("a body").to_owned()
    }

    fn order(&self, what: &str) -> u64 {
        self.ask("POST /order", what).parse().expect("a number")
    }

    fn count(&self) -> u64 {
        self.ask("GET /orders", "").parse().expect("a number")
    }

    fn signal(&self, name: &str, to: &str) {
        let to = if to == "group" { format!("-{}", self.child.id()) } else { self.child.id().to_string() };
        let done = Command::new("kill").args([&format!("-{name}"), "--", &to]).status().expect("kill runs");
        assert!(done.success());
    }

    fn ended(mut self) -> Option<i32> {
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).expect("text");
        self.child.wait().expect("it ends").code()
    }
}

fn log_of(house: &House) -> String {
    fs::read_to_string(house.path("run.log")).unwrap_or_default()
}

/// A folder with a repository, and no database.
fn deployed() -> House {
    let house = House::bare();
    house.ok(&[&INIT[..], &["--no-backup"]].concat());
    lose_the_disk(&house);
    house
}

/// What a new machine has: the configuration, the key, and the repository somewhere else.
fn lose_the_disk(house: &House) {
    for entry in fs::read_dir(house.0.path()).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.as_str() {
            "vault" | "backstay.key" | "backstay.toml" | "run.log" => {}
            _ if entry.path().is_dir() => fs::remove_dir_all(entry.path()).expect("removed"),
            _ => fs::remove_file(entry.path()).expect("removed"),
        }
    }
}

fn orders(path: &Path) -> u64 {
    let conn = Connection::open(path).expect("opens");
    assert_eq!(conn.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).expect("asked"), "ok");
    conn.query_row("SELECT count(*) FROM ordered", [], |row| row.get::<_, i64>(0)).expect("counted").cast_unsigned()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what is older than the shipping interval is a matter of real time")]
fn a_web_application_killed_with_its_disk_comes_back_with_every_commit_older_than_the_interval() {
    let house = deployed();
    let mut most = 0;
    for round in 1..=3 {
        let running = Running::begin(&house);
        assert!(running.count() >= most, "round {round}: what was durable is there: {}", log_of(&house));
        let began = Instant::now();
        let mut committed: Vec<(u64, Instant)> = Vec::new();
        while began.elapsed() < Duration::from_millis(3500) {
            committed.push((running.order(&"rope ".repeat(committed.len() % 300)), Instant::now()));
        }
        let killed = Instant::now();
        running.signal("KILL", "group");
        assert_eq!(running.ended(), None, "it was killed");
        let old = committed.iter().filter(|(_, at)| killed - *at > SHIPPED_AFTER);
        most = old.map(|(id, _)| *id).max().expect("something is older than the interval");
        lose_the_disk(&house);
        house.ok(&["restore", "shop", "--to", "look.db"]);
        let back = orders(&house.path("look.db"));
        assert!(back >= most, "round {round}: {back} of {} orders, {most} are old", committed.len());
        fs::remove_file(house.path("look.db")).expect("removed");
    }
    let log = log_of(&house);
    assert!(log.contains("the repository has nothing of it") && log.contains("restored state"), "{log}");
}

#[test]
fn signals_and_the_exit_code_pass_and_nothing_is_lost_at_the_end() {
    let house = deployed();
    let mut running = Running::begin(&house);
    for _ in 0..20 {
        running.order("sail");
    }
    running.signal("HUP", "it");
    assert_eq!(running.line(), "hup");
    let last = running.order("the very last");
    running.signal("TERM", "it");
    assert_eq!(running.line(), "term");
    assert_eq!(running.ended(), Some(7), "{}", log_of(&house));
    lose_the_disk(&house);
    let running = Running::begin(&house);
    assert_eq!(running.count(), last);
    running.order("one more");
    // It ends without a word right after the commit was answered.
    running.ask("POST /stop", "");
    assert_eq!(running.ended(), Some(0), "{}", log_of(&house));
    lose_the_disk(&house);
    house.ok(&["restore", "shop", "--to", "look.db"]);
    assert_eq!(orders(&house.path("look.db")), last + 1);
    let mut gone = house.command(&["run", "--json", "--", "sh", "-c", "kill -9 $$"]);
    let (exit, out, err) = house::ended(gone.output().expect("the binary runs"));
    let view: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!((exit, &view["application"]["signal"], &view["verdict"]), (137, &9.into(), &"pass".into()), "{err}");
    assert_eq!(view["restored"]["plan"]["log"]["tx"], view["position"]["tx"].as_u64().map_or(0, |tx| tx - 1));
}

#[test]
fn what_is_not_durable_in_time_is_said_with_a_code_of_its_own() {
    let house = deployed();
    let running = Running::begin(&house);
    running.order("rope");
    // The store is away: a folder nobody can write to, or for root, none at all.
    fs::rename(house.path("vault"), house.path("away")).expect("renamed");
    running.order("sail");
    running.signal("TERM", "it");
    // The deadline passes, or somebody asks twice and does not wait for it.
    let mut log = log_of(&house);
    while !log.contains("ask once more") {
        running.signal("TERM", "it");
        std::thread::sleep(Duration::from_millis(50));
        log = log_of(&house);
    }
    running.signal("TERM", "it");
    assert_eq!(running.ended(), Some(75), "{}", log_of(&house));
    assert!(log_of(&house).contains("THE LAST COMMITS ARE NOT DURABLE"), "{}", log_of(&house));
    // Nothing is lost as long as the disk is there: the next run makes it durable.
    fs::rename(house.path("away"), house.path("vault")).expect("renamed");
    house.ok(&["run", "--", "true"]);
    house.ok(&["restore", "shop", "--to", "look.db"]);
    assert_eq!(orders(&house.path("look.db")), 2);
}

#[test]
fn where_somebody_would_have_to_choose_the_application_is_not_started() {
    let house = House::new();
    let newest = house.newest();
    house.sql("UPDATE item SET name = 'later'");
    house.ok(&["backup"]);
    fs::remove_file(house.path("shop.db")).expect("removed");
    let started = house.path("started");
    let run = |words: &[&str]| {
        let (exit, _, err) = house.run(&[&["run"], words, &["--", "touch", "started"]].concat());
        assert!(!started.exists() && !house.path("shop.db").exists(), "nothing was begun: {err}");
        (exit, err)
    };
    // The newest manifest is damaged: what is left is older than what was there.
    let newer = house.snapshots()[0]["id"].as_str().expect("an id").to_owned();
    assert_ne!(newer, newest);
    let folder = house.path("vault/data/shop/snap");
    let file =
        fs::read_dir(&folder).expect("manifests").flatten().find(|f| f.path().to_string_lossy().contains(&newer));
    let file = file.expect("its manifest").path();
    let whole = fs::read(&file).expect("a manifest");
    let mut damaged = whole.clone();
    damaged[300] ^= 1;
    fs::remove_file(&file).expect("removed");
    fs::write(&file, damaged).expect("written");
    let (exit, err) = run(&[]);
    assert!(exit == 6 && err.contains("was not started"), "{exit}: {err}");
    // A new machine does not even know what the newest was: to it the older one is the newest that can be read.
    lose_the_disk(&house);
    let (exit, err) = run(&[]);
    assert!(exit == 6 && err.contains("was not started"), "{exit}: {err}");
    assert!(err.contains("something newer than what can be restored cannot be read"), "{err}");
    fs::remove_file(&file).expect("removed");
    fs::write(&file, whole).expect("written");
    assert_eq!(run(&["--db", "other.db"]).0, 3);
    assert_eq!(run(&["--source", "other"]).0, 2);
    let (exit, _, err) = house.run(&["run", "--", "./no-such-program"]);
    assert!(exit == 2 && err.contains("cannot start"), "{exit}: {err}");
    assert_eq!(house.run(&["run", "--", "sh", "-c", "exit 23"]).0, 23);
}
