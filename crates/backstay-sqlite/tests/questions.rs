//! Questions, holders, exclusive holds, raw captures and detection.

mod support;

use backstay_model::Verdict;
use backstay_sqlite::*;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{capture, insert, ledger, make};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("there")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn db(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("app.db")
}

fn ask(smoke: &[&str]) -> Questions {
    Questions {
        integrity: Integrity::Full,
        foreign_keys: ForeignKeys::Require,
        smoke: smoke.iter().map(|s| String::from(*s)).collect(),
        limit: Questions::USUAL_LIMIT,
    }
}

fn question(path: &Path, questions: &Questions) -> Result<Answers, SqliteError> {
    let clock = support::clock(0);
    backstay_sqlite::question(path, questions, &Asking { clock: clock.as_ref(), cancelled: &|| false })
}

#[test]
fn a_database_in_order_passes_and_nothing_appears_beside_it() {
    for journal in ["wal", "delete"] {
        let dir = tempfile::tempdir().expect("a directory");
        let conn = make(&db(&dir), 4096, journal);
        conn.execute_batch(
            "CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES('words to find');
             CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r VALUES(1, 2, 3);
             CREATE TABLE \"odd \"\"name\"(x); CREATE TABLE w(k TEXT PRIMARY KEY) WITHOUT ROWID;",
        )
        .expect("made");
        insert(&conn, 20);
        let (_, settled) = capture(&db(&dir)).expect("captured");
        conn.close().expect("closed");
        let said = question(&db(&dir), &ask(&["SELECT count(*) = 20 FROM t", "SELECT 'yes'"])).expect("asked");
        assert_eq!(said.verdict(), Verdict::Pass, "{said:?}");
        assert_eq!(said.schema_digest, Some(settled.facts.schema_digest));
        assert!(said.tables.iter().any(|t| t.table == "t" && t.rows == Some(20)));
        assert!(said.tables.iter().any(|t| t.table == "odd \"name" && t.rows == Some(0)));
        assert!(said.tables.iter().all(|t| t.table != "f"));
        assert_eq!(names(dir.path()), ["app.db"]);
        serde_json::to_string(&said).expect("serialises");
    }
}

#[test]
fn smoke_queries_pass_on_a_true_value_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(make(&db(&dir), 4096, "delete"));
    let cases = [
        ("SELECT 1", true),
        ("SELECT -0.5", true),
        ("SELECT 'a'", true),
        ("SELECT x'00'", true),
        ("SELECT 0", false),
        ("SELECT 0.0", false),
        ("SELECT ''", false),
        ("SELECT '0'", false),
        ("SELECT NULL", false),
        ("SELECT 1 WHERE 0", false),
        ("SELECT no_such_function()", false),
        ("DELETE FROM t", false),
        ("ATTACH '/dev/shm/backstay-never-made.db' AS other", false),
        ("nonsense", false),
        ("SELECT * FROM no_such_table", false),
    ];
    let said = question(&db(&dir), &ask(&cases.map(|(query, _)| query))).expect("asked");
    for ((query, want), smoke) in cases.iter().zip(&said.smoke) {
        assert_eq!(smoke.passed, *want, "{query}: {smoke:?}");
        assert_eq!(smoke.state, if *want { SmokeState::Passed } else { SmokeState::Failed }, "{query}");
    }
    assert!(!Path::new("/dev/shm/backstay-never-made.db").exists());
    assert_eq!(said.verdict(), Verdict::Fail);
}

#[test]
fn broken_references_are_counted_by_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = Connection::open(db(&dir)).expect("opens");
    conn.execute_batch(
        "PRAGMA foreign_keys=OFF; CREATE TABLE p(id INTEGER PRIMARY KEY);
         CREATE TABLE c(p REFERENCES p); INSERT INTO c VALUES (1), (2);",
    )
    .expect("made");
    let said = question(&db(&dir), &ask(&[])).expect("asked");
    let violations = ForeignKeysAnswer::Violations { tables: [(String::from("c"), 2)].into(), more: false };
    assert_eq!((&said.foreign_keys, said.verdict()), (&violations, Verdict::Fail));
    let report = Questions { foreign_keys: ForeignKeys::Report, ..ask(&[]) };
    assert_eq!(question(&db(&dir), &report).expect("asked").verdict(), Verdict::Pass);
}

#[test]
fn damage_is_an_answer_and_not_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 1024, "delete");
    insert(&conn, 500);
    conn.close().expect("closed");
    let whole = std::fs::read(db(&dir)).expect("there");
    for (from, to) in [(1024 * 5, 1024 * 6), (100, 1024), (0, 16)] {
        let mut bytes = whole.clone();
        bytes[from..to].fill(0x5A);
        std::fs::write(db(&dir), bytes).expect("written");
        let said = question(&db(&dir), &ask(&[])).expect("asked");
        assert!(matches!(said.integrity, IntegrityAnswer::Problems { .. }), "{from}: {said:?}");
        assert_eq!(said.verdict(), Verdict::Fail);
    }
}

#[test]
fn a_schema_that_needs_what_is_not_here_is_captured_and_does_not_crash_the_questions() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "delete");
    insert(&conn, 5);
    conn.execute_batch(
        "PRAGMA writable_schema=ON;
         INSERT INTO sqlite_schema VALUES('table', 'strange', 'strange', 0, 'CREATE VIRTUAL TABLE strange USING nowhere(x)');
         INSERT INTO sqlite_schema VALUES('view', 'v', 'v', 0, 'CREATE VIEW v AS SELECT nobody_has_this(1)');
         PRAGMA writable_schema=RESET;",
    )
    .expect("made");
    let (_, settled) = capture(&db(&dir)).expect("captured");
    let said = question(&db(&dir), &ask(&["SELECT count(*) FROM t"])).expect("asked");
    assert_eq!(said.schema_digest, Some(settled.facts.schema_digest));
    assert_eq!(said.verdict(), Verdict::Pass, "{said:?}");
}

fn beside(path: &Path, script: &str) -> std::process::Child {
    use std::io::Read;
    let mut child = std::process::Command::new("python3")
        .args(["-c", &format!("import sqlite3,sys,time\nc=sqlite3.connect(sys.argv[1],isolation_level=None)\n{script}\nprint('x',flush=True)\nsys.stdin.read()")])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3 is there");
    child.stdout.as_mut().expect("piped").read_exact(&mut [0; 1]).expect("it opened the database");
    child
}

#[test]
fn other_processes_are_found_and_keep_an_exclusive_hold_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    insert(&conn, 3);
    conn.close().expect("closed");
    let mut child = beside(&db(&dir), "c.execute('select count(*) from t').fetchall()");
    let found = holders(&db(&dir));
    assert_eq!(found.processes.iter().map(|h| h.pid).collect::<Vec<_>>(), [child.id()]);
    assert!(found.processes[0].command.contains("python"), "{found:?}");
    assert_eq!(found.locked, LockState::Readable);
    // Idle, and still in the way: every connection to a WAL database holds a lock.
    let error = take_exclusive(&db(&dir), Duration::ZERO).err().expect("refused");
    assert!(error.to_string().contains(&child.id().to_string()), "{error}");
    drop(child.stdin.take());
    child.wait().expect("ended");
    take_exclusive(&db(&dir), Duration::ZERO).expect("free now");
    assert_eq!(holders(&db(&dir)).processes, []);
}

#[test]
fn an_exclusive_hold_keeps_others_out_and_leaves_everything_in_the_main_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "wal");
    conn.pragma_update(None, "wal_autocheckpoint", 0).expect("set");
    insert(&conn, 30);
    let want = ledger(&conn);
    // The application is killed: its log has everything.
    let crashed = tempfile::tempdir().expect("a directory");
    for name in ["app.db", "app.db-wal"] {
        std::fs::copy(dir.path().join(name), crashed.path().join(name)).expect("copied");
    }
    let hold = take_exclusive(&db(&crashed), Duration::ZERO).expect("taken");
    let other = Connection::open(db(&crashed)).expect("opens");
    other.busy_timeout(Duration::ZERO).expect("set");
    assert!(other.query_row("SELECT count(*) FROM t", [], |_| Ok(())).is_err());
    assert_eq!(holders(&db(&crashed)).locked, LockState::Exclusive);
    hold.checkpoint_all().expect("copied back");
    drop(hold);
    assert_eq!(std::fs::metadata(crashed.path().join("app.db-wal")).expect("kept").len(), 0);
    let alone = tempfile::tempdir().expect("a directory");
    std::fs::copy(db(&crashed), db(&alone)).expect("copied");
    assert_eq!(ledger(&Connection::open(db(&alone)).expect("opens")), want);
    assert_eq!(ledger(&other), want);
}

#[test]
fn an_exclusive_hold_of_a_rollback_database_waits_for_readers() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "delete");
    insert(&conn, 3);
    conn.execute_batch("BEGIN; SELECT count(*) FROM t").expect("reading");
    assert!(matches!(take_exclusive(&db(&dir), Duration::ZERO), Err(SqliteError::Locked { .. })));
    conn.execute_batch("COMMIT").expect("done");
    let hold = take_exclusive(&db(&dir), Duration::ZERO).expect("taken");
    hold.checkpoint_all().expect("nothing to do");
    conn.busy_timeout(Duration::ZERO).expect("set");
    assert!(conn.query_row("SELECT count(*) FROM t", [], |_| Ok(())).is_err());
    drop(hold);
    assert_eq!(ledger(&conn).0, 3);
    assert_eq!(names(dir.path()), ["app.db"]);
}

#[test]
fn files_as_they_are_need_not_be_a_database() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(db(&dir), b"SQLite format 3\0 and then rubbish").expect("written");
    std::fs::write(dir.path().join("app.db-wal"), b"more rubbish").expect("written");
    let raw = capture_as_is(&db(&dir)).expect("captured");
    assert_eq!(raw.streams.iter().map(|s| (s.name, s.len.get())).collect::<Vec<_>>(), [("main", 33), ("wal", 12)]);
    let mut bytes = [9; 16];
    raw.streams[1].read_at(5, &mut bytes).expect("readable");
    assert_eq!(&bytes, b"rubbish\0\0\0\0\0\0\0\0\0");
    raw.streams[0].read_at(26, &mut bytes).expect("readable");
    assert_eq!(&bytes, b"rubbish\0\0\0\0\0\0\0\0\0");
    assert_eq!(raw.finish().changed, Vec::<&str>::new());
    std::fs::write(dir.path().join("app.db-wal"), b"longer than the rubbish").expect("written");
    std::fs::write(dir.path().join("app.db-journal"), b"new").expect("written");
    assert_eq!(raw.finish().changed, ["wal", "journal"]);
    assert!(matches!(capture_as_is(dir.path()), Err(SqliteError::NotAFile { .. })));
}

#[test]
fn databases_are_found_by_their_first_bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    for folder in ["a/b/c/d/e", "node_modules", ".cache", "target"] {
        std::fs::create_dir_all(at(folder)).expect("made");
    }
    let open = make(&at("shop.db"), 4096, "wal");
    insert(&open, 5);
    for name in
        ["a/plain", "a/b/c/d/deep.db", "a/b/c/d/e/too-deep.db", "node_modules/x.db", ".cache/y.db", "target/z.db"]
    {
        drop(make(&at(name), 1024, "delete"));
    }
    std::fs::write(at("notes.db"), b"no database at all".repeat(100)).expect("written");
    std::os::unix::fs::symlink(at("shop.db"), at("link.db")).expect("linked");
    let found = detect(dir.path(), DetectLimits::USUAL);
    let seen: Vec<_> =
        found.iter().map(|f| (f.path.strip_prefix(dir.path()).expect("below"), f.page_size.get(), f.journal)).collect();
    assert_eq!(
        seen,
        [
            (Path::new("shop.db"), 4096, JournalMode::Wal),
            (Path::new("a/plain"), 1024, JournalMode::Rollback),
            (Path::new("a/b/c/d/deep.db"), 1024, JournalMode::Rollback),
        ]
    );
    assert!(detect(dir.path(), DetectLimits { depth: 4, entries: 0 }).is_empty());
}

/// Makes two interior pages, each of which refers to the next level three hundred times: `levels` of
/// them make a tree of 300^levels leaves in a handful of pages. `root` becomes the first.
fn tie_a_knot(path: &Path, root: usize, leaf: u32, levels: u32) {
    const SIZE: usize = 4096;
    let mut bytes = std::fs::read(path).expect("there");
    let first_new = (bytes.len() / SIZE) as u32 + 1;
    for level in 0..levels {
        let child = if level + 1 == levels { leaf } else { first_new + level };
        let mut page = vec![0; SIZE];
        let head = if level == 0 && root == 1 { 100 } else { 0 };
        let cells = 300_usize;
        page[head] = 5;
        page[head + 3..head + 5].copy_from_slice(&(cells as u16).to_be_bytes());
        let content = SIZE - cells * 6;
        page[head + 5..head + 7].copy_from_slice(&(content as u16).to_be_bytes());
        page[head + 8..head + 12].copy_from_slice(&child.to_be_bytes());
        for cell in 0..cells {
            let at = content + cell * 6;
            page[head + 12 + cell * 2..][..2].copy_from_slice(&(at as u16).to_be_bytes());
            page[at..at + 4].copy_from_slice(&child.to_be_bytes());
            page[at + 4..at + 6].copy_from_slice(&[0x81, cell.min(127) as u8]);
        }
        if level == 0 {
            let from = (root - 1) * SIZE;
            if head > 0 {
                page[..100].copy_from_slice(&bytes[..100]);
            }
            bytes[from..from + SIZE].copy_from_slice(&page);
        } else {
            bytes.extend(page);
        }
    }
    let pages = (bytes.len() / SIZE) as u32;
    bytes[28..32].copy_from_slice(&pages.to_be_bytes());
    std::fs::write(path, bytes).expect("written");
}

/// A table whose tree refers to the same pages over and over: `count(*)` would end after the sun. The
/// questions never came back from it.
#[test]
fn a_tree_without_an_end_is_named_and_its_rows_are_not_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "delete");
    conn.execute_batch("DROP TABLE t; CREATE TABLE d(x); INSERT INTO d VALUES('a'), ('b')").expect("made");
    let root: u32 =
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'd'", [], |row| row.get(0)).expect("there");
    conn.execute_batch("CREATE TABLE leaf(x); INSERT INTO leaf VALUES('a'), ('b')").expect("made");
    let leaf: u32 =
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'leaf'", [], |row| row.get(0)).expect("there");
    conn.close().expect("closed");
    tie_a_knot(&db(&dir), root as usize, leaf, 6);
    for integrity in [Integrity::Full, Integrity::Quick] {
        let questions = Questions { integrity, ..ask(&["SELECT count(*) FROM d"]) };
        let said = question(&db(&dir), &questions).expect("asked");
        let IntegrityAnswer::Problems { problems, .. } = &said.integrity else { panic!("{said:?}") };
        assert!(problems.iter().any(|problem| problem.contains("2nd reference to page")), "{problems:?}");
        assert_eq!((said.tables.len(), &said.foreign_keys), (0, &ForeignKeysAnswer::NotAsked));
        assert_eq!((said.smoke[0].state, said.verdict()), (SmokeState::NotAsked, Verdict::Fail));
    }
}

/// The same knot in the schema itself held a capture for ever, inside its read transaction.
#[test]
fn a_schema_without_an_end_is_malformed() {
    let dir = tempfile::tempdir().expect("a directory");
    let conn = make(&db(&dir), 4096, "delete");
    conn.execute_batch("CREATE TABLE more(x)").expect("made");
    conn.close().expect("closed");
    // The schema's leaf moves to a page of its own, so that the first page can be the knot.
    let mut bytes = std::fs::read(db(&dir)).expect("there");
    let mut leaf = bytes[..4096].to_vec();
    let cells = usize::from(u16::from_be_bytes([leaf[103], leaf[104]]));
    leaf.copy_within(100..108 + 2 * cells, 0);
    bytes.extend(leaf);
    let at = (bytes.len() / 4096) as u32;
    std::fs::write(db(&dir), bytes).expect("written");
    tie_a_knot(&db(&dir), 1, at, 6);
    let error = capture(&db(&dir)).err().expect("refused");
    assert!(matches!(&error, SqliteError::Malformed { reason, .. } if reason.contains("no end")), "{error}");
    let said = question(&db(&dir), &ask(&["SELECT 1"])).expect("asked");
    assert!(matches!(said.schema, SchemaAnswer::Malformed { .. }), "{said:?}");
    assert!(said.is_unsound());
}

/// A question without an end ends with its time, or when somebody wants it to, and says nothing
/// against the file.
#[test]
fn an_endless_query_ends_with_its_time_or_when_it_is_cancelled() {
    let dir = tempfile::tempdir().expect("a directory");
    insert(&make(&db(&dir), 4096, "delete"), 5);
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
    let out_of_time = support::clock(1000);
    let questions = Questions { limit: Duration::from_mins(1), ..ask(&[endless]) };
    let asking = Asking { clock: out_of_time.as_ref(), cancelled: &|| false };
    let said = backstay_sqlite::question(&db(&dir), &questions, &asking).expect("asked");
    assert_eq!((said.smoke[0].state, said.verdict()), (SmokeState::Inconclusive, Verdict::Inconclusive), "{said:?}");
    let (still, looks) = (support::clock(0), std::cell::Cell::new(0));
    let cancelled = || {
        looks.set(looks.get() + 1);
        looks.get() > 20
    };
    let asking = Asking { clock: still.as_ref(), cancelled: &cancelled };
    let said = backstay_sqlite::question(&db(&dir), &questions, &asking).expect("asked");
    assert_eq!((said.smoke[0].state, said.verdict()), (SmokeState::Inconclusive, Verdict::Inconclusive), "{said:?}");
}
