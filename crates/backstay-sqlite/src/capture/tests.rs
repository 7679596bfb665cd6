#![allow(clippy::unwrap_used, reason = "a test may panic, and says where")]

use super::*;
use backstay_format::FingerprintKey;
use backstay_model::FingerprintKeyId;
use rusqlite::Connection;

struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Moment {
        Moment::from_millis(0).unwrap()
    }
}

struct Nothing;

impl SeenUnits for Nothing {
    fn read(&mut self, _: u64, _: &mut [Fingerprint]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A database whose files were copied while the application had it open, as a volume snapshot does.
fn frozen(journal: &str, script: &str, suffixes: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let live = tempfile::tempdir().unwrap();
    let conn = Connection::open(live.path().join("a.db")).unwrap();
    conn.query_row(&format!("PRAGMA journal_mode={journal}"), [], |_| Ok(())).unwrap();
    conn.execute_batch("PRAGMA cache_size=5; PRAGMA cache_spill=5; CREATE TABLE t(x)").unwrap();
    conn.execute_batch(script).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for suffix in suffixes {
        let name = format!("a.db{suffix}");
        std::fs::copy(live.path().join(&name), dir.path().join(&name)).unwrap();
    }
    let path = dir.path().join("a.db");
    (dir, path)
}

fn open_read_only(path: &Path, spool: &Path) -> Result<Capture, SqliteError> {
    let options = CaptureOptions::in_dir(spool.to_owned());
    Capture::open_on(path, Some(Medium::ReadOnly), options, Arc::new(StillClock))
}

#[test]
fn a_log_on_a_read_only_medium_is_laid_over_up_to_its_last_commit() {
    let script = "INSERT INTO t VALUES(1), (2); CREATE INDEX late ON t(x);
                  BEGIN; INSERT INTO t SELECT zeroblob(3000) FROM pragma_function_list LIMIT 60;";
    let (dir, path) = frozen("wal", script, &["", "-wal"]);
    let spool = tempfile::tempdir().unwrap();
    let mut capture = open_read_only(&path, spool.path()).unwrap();
    let mut image = vec![0; capture.facts().len.get() as usize];
    capture.read_at(0, &mut image).unwrap();
    let hasher = FingerprintKey::new(FingerprintKeyId::ZERO, [1; 32]).units();
    let settled = capture.settle(&mut Nothing, &hasher).unwrap();
    assert_eq!((settled.facts.journal, settled.report.hold_kind), (JournalMode::ReadOnlyImage, HoldKind::None));
    assert!(settled.report.wal_frames > 0 && settled.report.wal_pages > 0);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 2, "nothing was made beside it: {names:?}");
    assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0);

    let restored = spool.path().join("restored.db");
    std::fs::write(&restored, &image).unwrap();
    let conn = Connection::open(&restored).unwrap();
    let count: i64 =
        conn.query_row("SELECT count(*) FROM t INDEXED BY late WHERE x > 0", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 2);
    assert_eq!(crate::facts::schema_digest(&conn, &restored, &StillClock).unwrap(), settled.facts.schema_digest);
}

#[test]
fn a_journal_on_a_read_only_medium_is_named() {
    let script = "INSERT INTO t SELECT zeroblob(3000) FROM pragma_function_list LIMIT 60;
                  BEGIN; UPDATE t SET x = randomblob(3000)";
    let (_dir, path) = frozen("delete", script, &["", "-journal"]);
    let spool = tempfile::tempdir().unwrap();
    let error = open_read_only(&path, spool.path()).err().unwrap();
    assert!(matches!(error, SqliteError::HotJournal { .. }), "{error}");
}

#[test]
fn a_database_without_siblings_on_a_read_only_medium_is_its_main_file() {
    let (_dir, path) = frozen("delete", "INSERT INTO t VALUES(1)", &[""]);
    let spool = tempfile::tempdir().unwrap();
    let capture = open_read_only(&path, spool.path()).unwrap();
    let mut image = vec![0; capture.facts().len.get() as usize];
    capture.read_at(0, &mut image).unwrap();
    assert_eq!(image, std::fs::read(&path).unwrap());
}

/// A "read-only" medium was believed for the whole capture: whoever wrote it all the same, through
/// another mount, made a mix of two states that was stored as whole.
#[test]
fn a_read_only_medium_that_is_written_meanwhile_gives_no_snapshot() {
    let writes: [fn(&Path); 4] = [
        |path| Connection::open(path).unwrap().execute_batch("INSERT INTO t VALUES(9)").unwrap(),
        |path| std::fs::write(path.with_extension("db-wal"), b"a log").unwrap(),
        |path| std::fs::write(path.with_extension("db-journal"), b"a journal").unwrap(),
        |path| {
            // The same length and the same times, as a coarse clock shows them: the counter tells.
            let times = std::fs::metadata(path).unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[7], 27).unwrap();
            file.set_times(std::fs::FileTimes::new().set_modified(times.modified().unwrap())).unwrap();
        },
    ];
    for (at, write) in writes.into_iter().enumerate() {
        let (_dir, path) = frozen("delete", "INSERT INTO t VALUES(1), (2)", &[""]);
        let spool = tempfile::tempdir().unwrap();
        let hasher = FingerprintKey::new(FingerprintKeyId::ZERO, [1; 32]).units();
        let mut untouched = open_read_only(&path, spool.path()).unwrap();
        untouched.settle(&mut Nothing, &hasher).unwrap();
        let mut capture = open_read_only(&path, spool.path()).unwrap();
        write(&path);
        let error = capture.settle(&mut Nothing, &hasher).err().expect("refused");
        assert!(matches!(error, SqliteError::PinLost { why: PinLoss::MediumWritten, .. }), "{at}: {error}");
    }
}
