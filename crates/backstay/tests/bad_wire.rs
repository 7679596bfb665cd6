//! Every trouble of a network and of a server, over real HTTP, against backup, check and restore.
//!
//! Of each it is asked: does what was acknowledged come back through a clean network, is nothing acknowledged
//! that is not there, does it end at its deadline, and does the next run go on?

#![allow(clippy::disallowed_methods, reason = "how long a command takes is what is asked here")]

mod far;
mod house;

use backstay_testkit::s3_adversary::{Adversary, Conditions, Odds, Trouble};
use backstay_testkit::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use far::{Far, value};
use house::{ended, rows};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// What one operation on the store may take, of which one attempt takes half.
const DEADLINE: Duration = Duration::from_secs(3);
/// The binary, SQLite and a machine with other things to do.
const OWN_WORK: Duration = Duration::from_secs(30);

const EVERY: [Trouble; 13] = [
    Trouble::LostBefore,
    Trouble::CutRequest,
    Trouble::LostAfter,
    Trouble::SilentAfter,
    Trouble::CutAnswer,
    Trouble::ShortAnswer,
    Trouble::LongLength,
    Trouble::Drip(Duration::from_millis(200)),
    Trouble::Refused(500, "InternalError"),
    Trouble::Refused(503, "SlowDown"),
    Trouble::Refused(409, "OperationAborted"),
    Trouble::Busy(1),
    Trouble::Slow(Duration::from_secs(2)),
];

/// The rows of every snapshot that was acknowledged.
type Acknowledged = Vec<(String, Vec<(i64, String, Vec<u8>)>)>;

struct Scene {
    server: S3Server,
    far: Far,
    acknowledged: Acknowledged,
}

impl Scene {
    /// A repository with its first backup, made over a clean network.
    fn new() -> Self {
        let server = S3Server::start();
        let far = Far::new(server.endpoint());
        let (exit, out, err) = far.init();
        assert_eq!(exit, 0, "{out}{err}");
        let first = value(&out)["backup"]["sources"][0]["snapshot"].as_str().expect("an id").to_owned();
        let acknowledged = vec![(first, rows(&far.house.path("shop.db")))];
        Self { server, far, acknowledged }
    }

    /// Commands go through a bad network from now on.
    fn through(&mut self, odds: Option<Odds>) -> Adversary {
        let wire = Adversary::start(&self.server, Conditions::Honoured, odds);
        self.point_at(wire.endpoint());
        wire
    }

    fn point_at(&mut self, endpoint: String) {
        self.far.house.edit("backstay.toml", &self.far.endpoint, &endpoint);
        self.far.endpoint = endpoint;
    }

    fn deadline(&mut self, deadline: Duration) {
        self.far.env.push(("BACKSTAY_LIMITS_STORE_DEADLINE".to_owned(), format!("{}s", deadline.as_secs())));
    }

    /// A backup of changed rows. Returns the exit code; what it acknowledges must be there in the end.
    fn backup(&mut self, round: usize) -> i32 {
        self.far.house.sql(&format!("UPDATE item SET name = 'round {round}' WHERE id % 7 = {}", round % 7));
        let (exit, out, err) = self.far.run(&["backup", "shop", "--json"]);
        // A snapshot that is stored and could not be proven is acknowledged as stored.
        if matches!(exit, 0 | 10 | 11) {
            let snapshot = value(&out)["sources"][0]["snapshot"].as_str().expect("an id").to_owned();
            self.acknowledged.push((snapshot, rows(&self.far.house.path("shop.db"))));
        } else {
            assert_eq!(exit, 4, "{out}{err}");
        }
        exit
    }

    /// With a clean network: everything acknowledged is listed, checks and restores to its rows.
    fn whole(&mut self, about: &str) {
        self.point_at(self.server.endpoint());
        self.far.env.retain(|(name, _)| name != "BACKSTAY_LIMITS_STORE_DEADLINE");
        let there = self.far.snapshots();
        self.far.ok(&["check"]);
        for (at, (id, wanted)) in self.acknowledged.iter().enumerate() {
            assert!(there.contains(id), "{about}: {id} was acknowledged and is not there");
            let to = format!("clean-{at}.db");
            self.far.ok(&["restore", "shop", "--snapshot", id, "--to", &to]);
            assert!(rows(&self.far.house.path(&to)) == *wanted, "{about}: {id} is another state");
            fs::remove_file(self.far.house.path(&to)).expect("removed");
        }
    }
}

/// A trouble that strikes now and then is retried away: everything passes.
fn now_and_then(troubles: &[Trouble]) {
    for trouble in troubles {
        let mut scene = Scene::new();
        let odds = Odds { seed: 7, per_thousand: 120, troubles: vec![*trouble] };
        let _wire = scene.through(Some(odds));
        scene.deadline(Duration::from_secs(30));
        assert_eq!(scene.backup(1), 0, "{trouble:?}");
        scene.far.ok(&["check"]);
        scene.far.ok(&["restore", "shop", "--to", "bad.db"]);
        assert_eq!(rows(&scene.far.house.path("bad.db")), rows(&scene.far.house.path("shop.db")), "{trouble:?}");
        scene.whole(&format!("{trouble:?} now and then"));
    }
}

#[test]
fn lost_and_cut_requests_now_and_then_cost_nothing() {
    now_and_then(&EVERY[0..3]);
}

#[test]
fn answers_that_are_cut_or_lie_about_their_length_now_and_then_cost_nothing() {
    now_and_then(&EVERY[4..7]);
}

#[test]
fn refusals_now_and_then_cost_nothing() {
    now_and_then(&EVERY[8..12]);
}

#[test]
fn slow_and_silent_answers_now_and_then_cost_nothing_but_time() {
    let mut scene = Scene::new();
    let troubles = vec![Trouble::SilentAfter, Trouble::Drip(Duration::from_millis(500))];
    let _wire = scene.through(Some(Odds { seed: 3, per_thousand: 60, troubles }));
    // An attempt ends at half of it, and the next one goes through.
    scene.deadline(DEADLINE * 2);
    assert_eq!(scene.backup(1), 0);
    scene.far.ok(&["restore", "shop", "--to", "bad.db"]);
    scene.whole("silence now and then");
}

/// A trouble that does not end: each command fails in its time, with an answer, and loses nothing.
fn for_good(trouble: Trouble) {
    let mut scene = Scene::new();
    let wire = scene.through(Some(Odds { seed: 7, per_thousand: 1000, troubles: vec![trouble] }));
    scene.deadline(DEADLINE);
    for words in [&["check"][..], &["restore", "shop", "--to", "bad.db"], &["list"]] {
        let begun = Instant::now();
        let (exit, out, err) = scene.far.run(words);
        assert_eq!(exit, 4, "{trouble:?} {words:?}: {out}{err}");
        assert!(begun.elapsed() < DEADLINE * 2 + OWN_WORK, "{trouble:?} {words:?} took {:?}", begun.elapsed());
    }
    assert!(!scene.far.house.path("bad.db").exists(), "{trouble:?}: half a restore was left");
    let begun = Instant::now();
    assert_eq!(scene.backup(1), 4, "{trouble:?}");
    assert!(begun.elapsed() < DEADLINE * 2 + OWN_WORK, "{trouble:?}: a backup took {:?}", begun.elapsed());
    drop(wire);
    scene.whole(&format!("{trouble:?} for good"));
    assert_eq!(scene.backup(2), 0, "{trouble:?}: the next run goes on");
    scene.whole(&format!("after {trouble:?}"));
}

#[test]
fn a_network_that_is_gone_is_given_up_on_at_the_deadline() {
    for_good(Trouble::LostBefore);
}

#[test]
fn a_server_that_says_nothing_is_given_up_on_at_the_deadline() {
    for_good(Trouble::SilentAfter);
}

#[test]
fn a_server_that_drips_is_given_up_on_at_the_deadline() {
    for_good(Trouble::Drip(Duration::from_millis(200)));
}

#[test]
fn a_server_that_is_always_busy_is_given_up_on_at_the_deadline() {
    for_good(Trouble::Busy(3600));
}

/// Only the puts go wrong, so that each kind of object meets it in its turn: the n-th put of a backup is applied
/// and never answered, whatever is asked after it is refused.
#[test]
fn a_put_that_was_applied_and_never_answered_is_acknowledged_only_by_who_looks() {
    let mut scene = Scene::new();
    for nth in 0..6 {
        let wire = scene.through(None);
        scene.deadline(DEADLINE);
        for _ in 0..nth {
            wire.next("PUT", Trouble::Slow(Duration::ZERO));
        }
        wire.next("PUT", Trouble::LostAfter);
        for _ in 0..200 {
            wire.next("PUT", Trouble::Refused(500, "InternalError"));
        }
        scene.backup(nth);
        drop(wire);
        scene.whole(&format!("put {nth} applied"));
    }
    assert_eq!(scene.backup(9), 0);
    scene.whole("in the end");
}

#[test]
fn a_server_that_asks_for_quiet_gets_it() {
    let mut scene = Scene::new();
    let wire = scene.through(None);
    wire.next("GET", Trouble::Busy(2));
    let begun = Instant::now();
    scene.far.ok(&["list"]);
    assert!(begun.elapsed() >= Duration::from_secs(2), "asked again after {:?}", begun.elapsed());
    let asked = wire.take_requests();
    let of_conf = asked.iter().filter(|request| request.contains("list-type=2") && request.contains("conf"));
    assert!(of_conf.count() <= 3, "one in vain, then one each time the repository is opened: {asked:#?}");
}

#[test]
fn tiny_pages_show_everything() {
    let mut scene = Scene::new();
    for round in 1..5 {
        assert_eq!(scene.backup(round), 0);
    }
    let whole = scene.far.snapshots();
    let wire = scene.through(None);
    wire.shorten_pages(2);
    assert_eq!(scene.far.snapshots(), whole);
    scene.far.ok(&["check"]);
    assert_eq!(scene.backup(5), 0);
    scene.far.ok(&["restore", "shop", "--to", "bad.db"]);
    scene.whole("tiny pages");
}

#[test]
fn a_clock_that_is_wrong_is_said_with_what_to_do() {
    let mut scene = Scene::new();
    let _wire = scene.through(Some(Odds {
        seed: 1,
        per_thousand: 1000,
        troubles: vec![Trouble::Refused(403, "RequestTimeTooSkewed")],
    }));
    for words in [&["backup", "shop"][..], &["check"], &["restore", "shop", "--to", "bad.db"]] {
        let (exit, out, err) = scene.far.run(words);
        assert!(exit == 7 && err.contains("clock") && err.contains("timedatectl"), "{words:?} {exit}: {out}{err}");
    }
    scene.whole("a wrong clock");
}

/// Keys of a `credential_process` that expire in the middle: it is asked again, once, and the run goes on.
#[test]
fn keys_that_expire_in_the_middle_of_a_backup_are_asked_for_again() {
    let mut scene = Scene::new();
    let home = scene.far.house.path(".aws");
    fs::create_dir(&home).expect("a folder");
    let asked = scene.far.house.path("asked");
    let script = scene.far.house.path("keys.sh");
    // The server knows one key; the token tells the first answer from the later ones.
    let text = format!(
        "#!/bin/sh\necho x >> '{0}'\nn=$(wc -l < '{0}' | tr -d ' ')\nprintf '{{\"Version\":1,\"AccessKeyId\":\"{ACCESS_KEY}\",\
         \"SecretAccessKey\":\"{SECRET_KEY}\",\"SessionToken\":\"token-%s\"}}' \"$n\"\n",
        asked.display()
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("made a program");
    let profile = format!("[profile short]\ncredential_process = {}\n", script.display());
    fs::write(home.join("config"), profile).expect("written");
    scene.far.env.retain(|(name, _)| !name.starts_with("AWS_"));
    let times = || fs::read_to_string(&asked).map_or(0, |text| text.lines().count());

    scene.far.env.push(("BACKSTAY_STORE_PROFILE".to_owned(), "short".to_owned()));
    let wire = scene.through(None);
    wire.next("PUT", Trouble::Refused(400, "ExpiredToken"));
    assert_eq!(scene.backup(1), 0);
    assert_eq!(times(), 2, "once at the beginning, once in the middle");
    assert!(wire.take_heads().iter().any(|head| head.contains("token-2")), "the new keys are used");

    // Whoever hands out expired keys is not asked for ever.
    fs::remove_file(&asked).expect("removed");
    wire.expire(ACCESS_KEY);
    let (exit, out, err) = scene.far.run(&["backup", "shop"]);
    assert!(exit == 7 && err.contains("expired") && err.contains("credential_process"), "{exit}: {out}{err}");
    assert!((2..=4).contains(&times()), "{}", times());
    scene.far.env.retain(|(name, _)| !name.starts_with("BACKSTAY_STORE_"));
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    scene.far.env.extend(keys.map(|(name, value)| (name.to_owned(), value.to_owned())));
    scene.whole("expired keys");
}

/// Static keys cannot be renewed: the first refusal is told, with what to do, and nothing waits for a deadline.
#[test]
fn static_keys_that_expire_are_told_at_once() {
    let mut scene = Scene::new();
    let wire = scene.through(None);
    wire.next("PUT", Trouble::Refused(400, "ExpiredToken"));
    scene.far.house.sql("UPDATE item SET name = 'changed' WHERE id < 100");
    let begun = Instant::now();
    let mut command = scene.far.command(&["backup", "shop"]);
    let (exit, out, err) = ended(command.output().expect("the binary runs"));
    assert!(exit == 7 && err.contains("expired"), "{exit}: {out}{err}");
    assert!(begun.elapsed() < OWN_WORK, "{:?}", begun.elapsed());
    scene.whole("static keys");
}
