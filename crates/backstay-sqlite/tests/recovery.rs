//! The log decoder against SQLite's own recovery, over damaged logs.

mod support;

use backstay_format::sqlite::wal;
use backstay_model::PageNo;
use proptest::prelude::*;
use rusqlite::Connection;
use std::path::Path;
use support::{ledger, make};

const PAGE: usize = 1024;

/// A main file and the log of its last commits, with frames of an older generation in the tail.
struct Sample {
    main: Vec<u8>,
    log: Vec<u8>,
}

fn sample() -> Sample {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.db");
    let conn = make(&path, PAGE as u32, "wal");
    conn.pragma_update(None, "wal_autocheckpoint", 0).expect("set");
    for n in 0..30 {
        conn.execute("INSERT INTO t(body) VALUES(randomblob(300 + ?1))", [n]).expect("inserted");
    }
    conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).expect("restarted");
    for n in 0..8 {
        conn.execute("UPDATE t SET body = randomblob(400) WHERE id % 8 = ?1", [n]).expect("updated");
    }
    Sample {
        main: std::fs::read(&path).expect("there"),
        log: std::fs::read(dir.path().join("app.db-wal")).expect("there"),
    }
}

/// What SQLite makes of the two files.
fn by_sqlite(dir: &Path, main: &[u8], log: &[u8]) -> (i64, i64, Vec<u8>) {
    let path = dir.join("oracle.db");
    std::fs::write(&path, main).expect("written");
    std::fs::write(dir.join("oracle.db-wal"), log).expect("written");
    let conn = Connection::open(&path).expect("opens");
    let (rows, sum) = ledger(&conn);
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("copied back");
    drop(conn);
    (rows, sum, std::fs::read(&path).expect("there"))
}

/// What our decoder makes of them.
fn by_us(main: &[u8], log: &[u8]) -> Vec<u8> {
    let mut image = main.to_vec();
    let Some(found) = wal::map_committed(log).expect("readable") else { return image };
    image.resize(found.page_count as usize * PAGE, 0);
    for page in 1..=found.page_count {
        if let Some(at) = found.map.offset_of(PageNo::new(page).expect("not zero")) {
            let at = at as usize;
            image[(page as usize - 1) * PAGE..page as usize * PAGE].copy_from_slice(&log[at..at + PAGE]);
        }
    }
    image
}

#[derive(Debug, Clone)]
enum Damage {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    /// A whole frame replaced by another of the same log.
    Splice(prop::sample::Index, prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        (any::<prop::sample::Index>(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(a, b)| Damage::Splice(a, b)),
    ]
}

fn apply(log: &mut Vec<u8>, damage: &Damage) {
    const FRAME: usize = wal::FRAME_HEADER_LEN + PAGE;
    let frames = (log.len() - wal::HEADER_LEN) / FRAME;
    match damage {
        Damage::Cut(at) => log.truncate(at.index(log.len() + 1)),
        Damage::Flip(at, bit) => {
            let at = at.index(log.len());
            log[at] ^= 1 << bit;
        }
        Damage::Splice(from, to) => {
            let [from, to] = [from, to].map(|at| wal::HEADER_LEN + at.index(frames) * FRAME);
            log.copy_within(from..from + FRAME, to);
        }
    }
}

#[test]
fn the_decoder_stops_where_sqlites_recovery_stops() {
    let sample = sample();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&damage(), |damage| {
        let mut log = sample.log.clone();
        apply(&mut log, &damage);
        let dir = tempfile::tempdir().expect("a directory");
        let (_, _, theirs) = by_sqlite(dir.path(), &sample.main, &log);
        prop_assert!(by_us(&sample.main, &log) == theirs, "{damage:?}");
        Ok(())
    });
    outcome.expect("the same bytes for every damage");
}

#[test]
fn the_sample_has_content_in_the_log_and_an_older_generation_behind_it() {
    let sample = sample();
    let found = wal::map_committed(sample.log.as_slice()).expect("readable").expect("commits");
    assert!(wal::WalHeader::page_offset(found.header.page_size, found.frames + 2) < sample.log.len() as u64);
    assert_ne!(by_us(&sample.main, &sample.log), sample.main);
}
