//! Asking a moment without restoring it, against the same questions asked of a restored file.

mod world;

use backstay_model::catalog::Target;
use backstay_model::{ByteLen, Kind, Kinded, Tx};
use backstay_ops::OpsError;
use backstay_ops::disk::OsDisk;
use backstay_ops::env::blocking;
use backstay_ops::follow::{FollowRequest, Follower, Limits};
use backstay_ops::query::{Asker, CACHE_USUAL, Past, Reading};
use backstay_sqlite::SqliteError;
use backstay_sqlite::lazy::{Go, Session, Value};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::repo::Repository;
use backstay_store::{Store, Verb};
use backstay_testkit::fault_store::{Fault, FaultKind, FaultStore};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use world::{World, source};

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.roll(words.len() as u64) as usize]
    }
}

fn reading(cache: ByteLen) -> Reading {
    Reading { cache }
}

async fn open(asker: &Asker<'_>, target: Target) -> Past {
    asker.open(&source(), &target).await.expect("the moment opens")
}

async fn over(world: &World, store: Arc<dyn Store>) -> Repository {
    Repository::open(store, world.vault.repo.root(), None).await.expect("the repository opens")
}

/// A shop with every kind of tree: rowid tables, one without, indexes, long values, and gaps.
fn fill(world: &World, page_size: u32) {
    world.sql(&format!(
        "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
         CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, price REAL, note BLOB, kind INTEGER);
         CREATE INDEX item_kind ON item(kind, price);
         CREATE TABLE stock(shop TEXT, item INTEGER, n INTEGER, PRIMARY KEY(shop, item)) WITHOUT ROWID;
         CREATE TABLE empty(a, b);
         CREATE VIEW dear AS SELECT id, name FROM item WHERE price > 900;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<9000)
         INSERT INTO item SELECT i*2, printf('Item %d', i*7919%9000), (i*37%1000)*1.25,
           CASE WHEN i%500=0 THEN randomblob(20000) WHEN i%3=0 THEN NULL ELSE randomblob(i%90) END, i%17 FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)
         INSERT INTO stock SELECT printf('shop %d', i%9), i*2, i*31%100 FROM n;"
    ));
}

fn change(world: &World, round: u64) {
    world.sql(&format!(
        "UPDATE item SET price = price + {round}, name = name || ' v{round}' WHERE id % 113 = {round};
         DELETE FROM item WHERE id % 97 = {round}; DELETE FROM stock WHERE item % 41 = {round};
         INSERT INTO item SELECT id*1000+{round}, 'New ' || id, price, randomblob(300), 99 FROM item WHERE id % 301 = {round};
         INSERT INTO empty VALUES ({round}, randomblob({round}00));"
    ));
}

/// One question, by chance; each has one answer whatever the plan.
fn question(dice: &mut Dice) -> String {
    let (a, b) = (dice.roll(18_500), dice.roll(2000));
    let (kind, n) = (dice.roll(20), dice.roll(60) + 1);
    match dice.roll(18) {
        0 => format!("SELECT * FROM item WHERE id = {a}"),
        1 => format!(
            "SELECT id, name, hex(substr(note, 1, 40)) FROM item WHERE id BETWEEN {a} AND {} ORDER BY id",
            a + b
        ),
        2 => format!("SELECT id, price FROM item WHERE kind = {kind} ORDER BY price, id LIMIT {n}"),
        3 => format!("SELECT count(*), sum(n), min(item), max(item) FROM stock WHERE shop = 'shop {}'", kind % 10),
        4 => format!("SELECT kind, count(*), total(price) FROM item WHERE id > {a} GROUP BY kind ORDER BY kind"),
        5 => format!(
            "SELECT i.id, i.name, s.n FROM stock s JOIN item i ON i.id = s.item WHERE s.shop = 'shop {}' AND s.item < {a} ORDER BY i.id DESC LIMIT {n}",
            kind % 10
        ),
        6 => format!("SELECT id FROM item WHERE name = 'ITEM {}' ORDER BY id", dice.roll(9000)),
        7 => format!(
            "SELECT id, length(note) FROM item WHERE length(note) > {} ORDER BY id DESC LIMIT {n}",
            dice.roll(100)
        ),
        8 => format!("SELECT DISTINCT shop FROM stock WHERE n = {} ORDER BY shop", dice.roll(100)),
        9 => format!("SELECT id FROM dear ORDER BY id LIMIT {n} OFFSET {}", dice.roll(700)),
        10 => format!(
            "SELECT id, row_number() OVER (PARTITION BY kind ORDER BY id) FROM item WHERE kind = {kind} ORDER BY id LIMIT {n}"
        ),
        11 => format!(
            "SELECT count(*) FROM item WHERE name LIKE '{}%' OR kind IN (SELECT n FROM stock WHERE item = {a})",
            dice.of(&["New", "Item 1", "Item 88", "x"])
        ),
        12 => "SELECT a, hex(b) FROM empty ORDER BY a".to_owned(),
        13 => format!("SELECT note FROM item WHERE id = {}", (dice.roll(19) + 1) * 1000),
        14 => format!("SELECT id FROM item WHERE id < {a} EXCEPT SELECT item FROM stock ORDER BY 1 LIMIT {n}"),
        15 => format!(
            "WITH top AS (SELECT id, price FROM item ORDER BY price DESC, id LIMIT {n}) SELECT sum(id), max(price) FROM top"
        ),
        16 => "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name".to_owned(),
        _ => format!("SELECT max(id), min(id) FROM item WHERE kind > {kind} AND price < {b}"),
    }
}

fn file_rows(conn: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = conn.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let width = statement.column_count();
    let mut rows = statement.query([]).expect("a query");
    let mut out = Vec::new();
    while let Some(row) = rows.next().expect("a row") {
        let value = |at| match row.get_ref(at).expect("a value") {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => Value::Integer(n),
            ValueRef::Real(x) => Value::Real(x),
            ValueRef::Text(text) => Value::Text(text.to_owned()),
            ValueRef::Blob(blob) => Value::Blob(blob.to_owned()),
        };
        out.push((0..width).map(value).collect());
    }
    out
}

async fn restored(world: &World, target: Target) -> PathBuf {
    let to = (0..).map(|n| world.dir().join(format!("restored-{n}.db"))).find(|path| !path.exists()).expect("a name");
    world.restore(target, &to).await.expect("restore");
    to
}

fn compare(session: &Session, file: &Path, dice: &mut Dice, questions: u64) {
    let conn = Connection::open(file).expect("open");
    for _ in 0..questions {
        let sql = question(dice);
        let found = session.rows(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(found == file_rows(&conn, &sql), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_questions_give_what_a_restored_file_gives() {
    for (page_size, cache) in [(4096, CACHE_USUAL), (512, ByteLen::new(600 << 10)), (65_536, ByteLen::new(1 << 20))] {
        let world = World::new().await;
        fill(&world, page_size);
        let mut moments = vec![world.backup().await.expect("backup").snapshot];
        for round in 1..5 {
            change(&world, round);
            moments.push(world.backup().await.expect("backup").snapshot);
        }
        let asker = Asker::new(&world.vault, reading(cache));
        let mut dice = Dice(0x5eed_0001 + u64::from(page_size));
        for id in &moments {
            let target = Target::Id(id.to_string());
            let file = restored(&world, target.clone()).await;
            let past = open(&asker, target).await;
            blocking(|| compare(&past.session().expect("session"), &file, &mut dice, 150));
        }
        // All of them open at once, over one cache, asked in turn.
        let mut all = Vec::new();
        for (at, id) in moments.iter().enumerate() {
            let file = world.dir().join(format!("restored-{at}.db"));
            all.push((open(&asker, Target::Id(id.to_string())).await, file));
        }
        blocking(|| {
            let sessions: Vec<Session> = all.iter().map(|(past, _)| past.session().expect("session")).collect();
            for _ in 0..60 {
                let at = dice.roll(all.len() as u64) as usize;
                compare(&sessions[at], &all[at].1, &mut dice, 5);
            }
        });
        let left: Vec<_> = std::fs::read_dir(world.dir()).expect("folder").flatten().map(|e| e.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("query")), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_commit_of_a_followed_source_can_be_asked() {
    let world = World::new().await;
    fill(&world, 4096);
    let request = FollowRequest {
        source: source(),
        path: world.db(),
        busy: Duration::from_secs(10),
        hold_max: Duration::from_secs(1),
        log_growth_max: ByteLen::new(1 << 30),
        uploads_in_flight: 2,
        limits: Limits::STANDARD,
        steps: Arc::new(|_| {}),
    };
    let keep = Connection::open(world.db()).expect("open");
    keep.execute_batch("SELECT 1 FROM item").expect("read");
    let mut follower = Follower::start(&world.vault, request).await.expect("follow");
    let mut states = Vec::new();
    for round in 1..7 {
        match round {
            5 => keep.execute_batch("DELETE FROM item WHERE id > 9000; VACUUM").expect("sql"),
            _ => keep.execute_batch(&format!("UPDATE item SET price = {round} WHERE id % 31 = {round}; INSERT INTO empty VALUES ({round}, randomblob(9000))")).expect("sql"),
        }
        follower.tick().await.expect("tick");
        states.push(follower.position().tx);
    }
    drop(follower);
    let asker = Asker::new(&world.vault, reading(CACHE_USUAL));
    let mut dice = Dice(0x5eed_0002);
    for tx in [Tx::FIRST].into_iter().chain(states) {
        let file = restored(&world, Target::Tx(tx)).await;
        let past = open(&asker, Target::Tx(tx)).await;
        blocking(|| {
            let session = past.session().expect("session");
            let check = session.rows("PRAGMA integrity_check", &[]).expect("a check");
            assert_eq!(check, vec![vec![Value::Text(b"ok".to_vec())]], "{tx}");
            compare(&session, &file, &mut dice, 60);
        });
    }
}

fn page_fault(error: &SqliteError) -> (i32, Kind) {
    match error {
        SqliteError::Page { code, fault } => (*code, fault.kind),
        other => panic!("no named I/O error: {other}"),
    }
}

fn packs(world: &World) -> Vec<PathBuf> {
    let folder = world.dir().join("vault/data/shop/pack");
    std::fs::read_dir(folder).expect("packs").flatten().map(|entry| entry.path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_and_missing_objects_give_a_named_error_or_the_right_rows() {
    let world = World::new().await;
    fill(&world, 4096);
    world.backup().await.expect("backup");
    change(&world, 3);
    world.backup().await.expect("backup");
    let file = restored(&world, Target::Latest).await;
    let conn = Connection::open(&file).expect("open");
    let mut dice = Dice(0x5eed_0003);
    let (mut refused, mut right) = (0, 0);
    for pack in packs(&world) {
        let whole = std::fs::read(&pack).expect("read");
        for round in 0..9 {
            let mut bytes = whole.clone();
            match round {
                0 => std::fs::remove_file(&pack).expect("removed"),
                1 => std::fs::write(&pack, &bytes[..bytes.len() / 3]).expect("cut"),
                2 => std::fs::write(&pack, vec![0; bytes.len()]).expect("zeros"),
                _ => {
                    let at = dice.roll(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << dice.roll(8);
                    std::fs::write(&pack, bytes).expect("damaged");
                }
            }
            let asker = Asker::new(&world.vault, reading(CACHE_USUAL));
            match asker.open(&source(), &Target::Latest).await {
                Err(error) => {
                    assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unavailable | Kind::Config), "{error}")
                }
                Ok(past) => blocking(|| match past.session() {
                    Err(OpsError::Sqlite(error)) => {
                        page_fault(&error);
                    }
                    Err(other) => panic!("{other}"),
                    Ok(session) => {
                        for _ in 0..25 {
                            let sql = question(&mut dice);
                            match session.rows(&sql, &[]) {
                                Ok(rows) => {
                                    assert!(rows == file_rows(&conn, &sql), "{sql}");
                                    right += 1;
                                }
                                Err(error) => {
                                    let (code, kind) = page_fault(&error);
                                    assert_eq!(code & 0xff, 10, "an I/O error of SQLite: {error}");
                                    assert!(kind == Kind::Corrupt || round < 2, "{kind:?}: {error}");
                                    assert!(error.to_string().contains("data/shop/pack/"), "{error}");
                                    refused += 1;
                                }
                            }
                        }
                    }
                }),
            }
        }
        std::fs::write(&pack, whole).expect("put back");
    }
    assert!(refused > 100 && right > 100, "{refused} refused, {right} right");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_now_and_then_is_named_and_asked_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = Arc::new(LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store"));
    let mut world = World::over(folder, local.clone(), Arc::new(OsDisk)).await;
    fill(&world, 4096);
    world.backup().await.expect("backup");
    let file = restored(&world, Target::Latest).await;
    let conn = Connection::open(&file).expect("open");
    let fault = |kind| Fault { verb: Some(Verb::GetRange), per_thousand: 300, kind };
    let mut dice = Dice(0x5eed_0004);
    let (mut failed, mut right) = (0, 0);
    for round in 0..6 {
        let plain = Asker::new(&world.vault, reading(ByteLen::new(300 << 10)));
        let opened = plain.open(&source(), &Target::Latest).await.expect("the moment opens");
        drop((opened, plain));
        let broken = FaultStore::new(local.clone()).with_faults(round, vec![fault(FaultKind::Unapplied)]);
        world.vault.repo = over(&world, Arc::new(broken)).await;
        let asker = Asker::new(&world.vault, reading(ByteLen::new(300 << 10)));
        let past = loop {
            if let Ok(past) = asker.open(&source(), &Target::Latest).await {
                break past;
            }
        };
        blocking(|| {
            let session = loop {
                if let Ok(session) = past.session() {
                    break session;
                }
            };
            for _ in 0..60 {
                let sql = question(&mut dice);
                match session.rows(&sql, &[]) {
                    Ok(rows) => {
                        assert!(rows == file_rows(&conn, &sql), "{sql}");
                        right += 1;
                    }
                    Err(error) => {
                        assert_eq!(page_fault(&error).1, Kind::Unavailable, "{error}");
                        failed += 1;
                    }
                }
            }
        });
        world.vault.repo = over(&world, local.clone()).await;
    }
    assert!(failed > 20 && right > 20, "{failed} failed, {right} right");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_store_is_given_up_on_when_the_time_is_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = Arc::new(LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store"));
    let mut world = World::over(folder, local.clone(), Arc::new(OsDisk)).await;
    fill(&world, 4096);
    world.backup().await.expect("backup");
    let slow =
        Fault { verb: Some(Verb::GetRange), per_thousand: 1000, kind: FaultKind::Slow(Duration::from_millis(400)) };
    world.vault.repo = over(&world, Arc::new(FaultStore::new(local).with_faults(1, vec![slow]))).await;
    let asker = Asker::new(&world.vault, reading(CACHE_USUAL));
    let past = open(&asker, Target::Latest).await;
    blocking(|| {
        let session = past.session().expect("session");
        asker.stop().within(Some(Duration::from_millis(300)));
        let error = session.rows("SELECT sum(length(note)) FROM item", &[]).expect_err("too slow");
        assert_eq!(page_fault(&error).1, Kind::Unavailable);
        assert!(error.to_string().contains("the time allowed for it ran out"), "{error}");
        // Long work that needs no page ends as well.
        asker.stop().within(Some(Duration::from_millis(200)));
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n";
        let stop = || if asker.stop().is_over() { Go::Stop } else { Go::On };
        let error = session.ask(endless, &[], &stop, &mut |_, _| Go::On).expect_err("endless");
        assert_eq!(error.kind(), Kind::Cancelled, "{error}");
        asker.stop().within(None);
        assert_eq!(session.count("item").expect("a count"), 9000);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_side_by_side_while_objects_go_away() {
    let world = World::new().await;
    fill(&world, 4096);
    world.backup().await.expect("backup");
    let file = restored(&world, Target::Latest).await;
    // A cache too small for all of it, so that the store is asked again and again.
    let asker = Asker::new(&world.vault, reading(ByteLen::new(300 << 10)));
    let past = open(&asker, Target::Latest).await;
    let (right, refused, gone) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    blocking(|| {
        std::thread::scope(|scope| {
            for seed in 1..5 {
                let (past, file, right, refused, gone) = (&past, &file, &right, &refused, &gone);
                scope.spawn(move || {
                    let session = past.session().expect("session");
                    let conn = Connection::open(file).expect("open");
                    let mut dice = Dice(0x5eed_0005 * seed);
                    for _ in 0..150 {
                        let sql = question(&mut dice);
                        match session.rows(&sql, &[]) {
                            Ok(rows) => {
                                assert!(rows == file_rows(&conn, &sql), "{sql}");
                                right.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => {
                                assert!(gone.load(Ordering::SeqCst), "{error}");
                                page_fault(&error);
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
            while right.load(Ordering::SeqCst) < 200 {
                std::thread::yield_now();
            }
            gone.store(true, Ordering::SeqCst);
            packs(&world).iter().for_each(|pack| std::fs::remove_file(pack).expect("removed"));
        });
    });
    assert!(refused.load(Ordering::SeqCst) > 0, "{right:?}");
    assert_eq!(right.into_inner() + refused.into_inner(), 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_costs_the_pages_it_touches_and_changes_nothing() {
    let world = World::new().await;
    fill(&world, 4096);
    world.sql("CREATE TABLE big(id INTEGER PRIMARY KEY, x BLOB);
               WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<16000) INSERT INTO big SELECT i, randomblob(2000) FROM n;");
    world.backup().await.expect("backup");
    let asker = Asker::new(&world.vault, reading(ByteLen::new(16 << 20)));
    let past = open(&asker, Target::Latest).await;
    blocking(|| {
        let session = past.session().expect("session");
        let one = session.rows("SELECT length(x) FROM big WHERE id = 9999", &[]).expect("a row");
        assert_eq!(one, vec![vec![Value::Integer(2000)]]);
        let point = asker.read();
        assert!(point.requests <= 6 && point.bytes < 1 << 20, "{point:?}");
        let sum = session.rows("SELECT count(*), sum(length(x)) FROM big", &[]).expect("a sum");
        assert_eq!(sum, vec![vec![Value::Integer(16_000), Value::Integer(32_000_000)]]);
        let scan = asker.read();
        // 32 MB in frames of a quarter of a megabyte, several to a request, none twice.
        assert!(scan.requests < 80 && scan.bytes < 38_000_000, "{scan:?}");
        for sql in [
            "INSERT INTO empty VALUES (1, 2)",
            "CREATE TABLE x(a)",
            "ATTACH '/etc/passwd' AS p",
            "VACUUM INTO '/tmp/never.db'",
            "SELECT 1; SELECT 2",
            "PRAGMA journal_mode=WAL",
            "SELECT load_extension('x')",
        ] {
            assert!(session.rows(sql, &[]).is_err() || sql.contains("journal_mode"), "{sql}");
        }
        assert_eq!(session.count("item").expect("a count"), 9000);
        assert!(!Path::new("/tmp/never.db").exists());
    });
}
