//! Pages that become free, or go to another tree, without being written: nothing in them tells that their rows are gone.
//! What a comparison says without reading the pages in common is what it says when it reads everything.

mod whole;
mod world;

use backstay_format::sqlite::btree::{BtreePage, PageKind, PageShape};
use backstay_model::ByteLen;
use backstay_model::catalog::Target;
use backstay_ops::disk::OsDisk;
use backstay_ops::env::blocking;
use backstay_ops::follow::{FollowRequest, Follower, Limits};
use backstay_ops::query::{Asker, CACHE_USUAL, Past, Reading};
use backstay_ops::rows::{self, Walk};
use backstay_sqlite::lazy::{PageSource, Value};
use backstay_store::memory::MemoryStore;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use whole::is_what_the_whole_merge_says;
use world::{World, source};

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % below
    }
}

const ROWS: u64 = 1500;

const SHOP: &str = "PRAGMA page_size=512; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA secure_delete=OFF; PRAGMA synchronous=OFF;
    CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, note BLOB);
    CREATE TABLE other(id INTEGER PRIMARY KEY, name TEXT, note BLOB);
    CREATE TABLE pair(a TEXT, b INTEGER, PRIMARY KEY(a, b)) WITHOUT ROWID;
    CREATE INDEX item_name ON item(name);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<1500) INSERT INTO item SELECT i, 'item ' || i, randomblob(90) FROM n;
    INSERT INTO other SELECT id * 3, name, CASE id % 11 WHEN 0 THEN randomblob(1500) ELSE randomblob(70) END FROM item;
    INSERT INTO pair SELECT name, id FROM item WHERE id % 3 = 0;";

/// One commit: ranges go and come back, tables and indexes as well, and free pages are given back to the disk.
fn statement(dice: &mut Dice) -> String {
    let (at, wide, n) = (dice.roll(ROWS), dice.roll(300) + 40, dice.roll(9));
    let (table, scale) = if n % 2 == 0 { ("item", 1) } else { ("other", 3) };
    let (first, last) = (at * scale, (at + wide) * scale);
    match dice.roll(14) {
        0..=3 => format!("DELETE FROM {table} WHERE id BETWEEN {first} AND {last}"),
        4 | 5 => format!("WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i+1 FROM n WHERE i<{last}) INSERT OR IGNORE INTO {table} SELECT i, 'new {n}', randomblob(80) FROM n"),
        6 => format!("DELETE FROM pair WHERE b BETWEEN {first} AND {last}"),
        7 => format!("INSERT OR IGNORE INTO pair SELECT name, id FROM {table} WHERE id % 7 = {n}"),
        8 => format!("CREATE TABLE extra{n} AS SELECT * FROM {table} WHERE id BETWEEN {first} AND {last}"),
        9 => format!("DROP TABLE IF EXISTS extra{n}; DELETE FROM other WHERE id BETWEEN {first} AND {last}"),
        10 => "DROP INDEX IF EXISTS item_name".to_owned(),
        11 => "CREATE INDEX IF NOT EXISTS item_name ON item(name); CREATE INDEX IF NOT EXISTS other_name ON other(name, id)".to_owned(),
        12 => format!("PRAGMA incremental_vacuum({wide}); DELETE FROM item WHERE id BETWEEN {first} AND {last}"),
        _ => format!("UPDATE other SET note = randomblob(length(note) + {wide} - 150) WHERE id BETWEEN {first} AND {}", first + 30),
    }
}

fn bytes_of(pages: &dyn PageSource, page: u32) -> Vec<u8> {
    let mut bytes = vec![0; pages.page_size().get() as usize];
    pages.read(page, &mut bytes).expect("a page");
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Leaves of tables with row numbers.
fn leaves(past: &Past) -> BTreeSet<u32> {
    let pages = past.pages();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE type='table' AND name <> 'pair' AND rootpage > 0";
    let roots = past.session().and_then(|session| Ok(session.rows(sql, &[])?)).expect("roots");
    let root = |row: &Vec<Value>| match row.as_slice() {
        [Value::Integer(root)] => u32::try_from(*root).expect("a page"),
        other => panic!("{other:?}"),
    };
    let mut waiting: Vec<u32> = roots.iter().map(root).collect();
    let mut leaves = BTreeSet::new();
    while let Some(number) = waiting.pop() {
        let bytes = bytes_of(&*pages, number);
        let shape = PageShape { size: pages.page_size(), reserved: 0 };
        let page = BtreePage::parse(number, &bytes, shape).expect("a page of a tree");
        if page.kind == PageKind::TableInterior {
            waiting.extend((0..page.cells()).map(|cell| page.child(cell).expect("a child")).chain(page.last_child()));
        } else {
            leaves.insert(number);
        }
    }
    leaves
}

/// Pages that nobody uses, and those behind the end.
fn is_free(past: &Past) -> impl Fn(u32) -> bool {
    let pages = past.pages();
    let mut free = BTreeSet::new();
    let mut trunk = word(&bytes_of(&*pages, 1), 32);
    while trunk != 0 {
        free.insert(trunk);
        let bytes = bytes_of(&*pages, trunk);
        free.extend((0..word(&bytes, 4) as usize).map(|at| word(&bytes, 8 + 4 * at)));
        trunk = word(&bytes, 0);
    }
    let last = pages.pages();
    move |page| page > last || free.contains(&page)
}

/// Leaves of one moment that are free at the other, and lie at the same place in the repository: nobody wrote them.
fn freed_unwritten(before: &Past, after: &Past) -> usize {
    blocking(|| {
        let Some(changed) = after.changed_since(before).expect("known") else { return 0 };
        let free = is_free(after);
        leaves(before).into_iter().filter(|page| free(*page) && changed.binary_search(page).is_err()).count()
    })
}

/// What came of all the pairs.
#[derive(Debug, Default)]
struct Seen {
    /// Pairs in which a leaf was freed without being written.
    freed: usize,
    rows: u64,
}

fn compare(asker: &Asker<'_>, pasts: &[Past], dice: &mut Dice) -> Seen {
    let mut seen = Seen::default();
    for at in 1..pasts.len() {
        for other in [at - 1, dice.roll(at as u64) as usize] {
            let (before, after) = (&pasts[other], &pasts[at]);
            seen.freed += usize::from(freed_unwritten(before, after) > 0);
            seen.rows += is_what_the_whole_merge_says(asker, before, after);
            // The other way round pages come into use that were there already.
            is_what_the_whole_merge_says(asker, after, before);
        }
    }
    seen
}

async fn world(journal: &str) -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::over(folder, Arc::new(MemoryStore::new()), Arc::new(OsDisk)).await;
    world.sql(&format!("{SHOP} PRAGMA journal_mode={journal};"));
    world
}

async fn follow(world: &World) -> Follower<'_> {
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
    Follower::start(&world.vault, request).await.expect("follow")
}

async fn states(asker: &Asker<'_>, world: &World) -> Vec<Past> {
    let mut walk = Walk::new(asker, rows::points(&world.vault, &source(), None).await.expect("points"));
    let mut pasts = Vec::new();
    for at in 0..walk.points.list.len() {
        pasts.push(walk.open(at).await.expect("a state"));
    }
    pasts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_on_a_leaf_that_was_freed_without_being_written_are_found_gone() {
    let world = world("WAL").await;
    let app = Connection::open(world.db()).expect("open");
    app.execute_batch("PRAGMA wal_autocheckpoint=0; SELECT 1 FROM item").expect("read");
    let mut follower = follow(&world).await;
    for sql in ["DELETE FROM item WHERE id BETWEEN 400 AND 700", "DROP TABLE other", "PRAGMA incremental_vacuum"] {
        app.execute_batch(sql).expect("a commit");
        follower.tick().await.expect("tick");
    }
    drop(follower);
    let asker = Asker::new(&world.vault, Reading { cache: CACHE_USUAL });
    let pasts = states(&asker, &world).await;
    assert_eq!(pasts.len(), 4);
    let [full, holed, dropped, short] = pasts.as_slice() else { panic!("four states") };
    // Three hundred rows, four to a page: many more leaves than a page that lists free ones.
    assert!(freed_unwritten(full, holed) > 40, "{}", freed_unwritten(full, holed));
    assert!(freed_unwritten(holed, dropped) > 200 && freed_unwritten(full, short) > 40);
    assert_eq!(is_what_the_whole_merge_says(&asker, full, holed), 301);
    assert_eq!(is_what_the_whole_merge_says(&asker, holed, full), 301);
    assert_eq!(is_what_the_whole_merge_says(&asker, dropped, short), 0);
    assert_eq!(is_what_the_whole_merge_says(&asker, full, short), 301);
    let read = blocking(|| rows::diff((full, holed), None, asker.stop(), &mut |_, _| backstay_sqlite::lazy::Go::On));
    let counts =
        read.expect("a report").tables.into_iter().find(|table| table.table == "item").expect("compared").counts;
    assert_eq!((counts.removed, counts.same), (301, None), "and the rest was left out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_commits_that_free_pages_differ_as_the_whole_merge_says() {
    let world = world("WAL").await;
    let app = Connection::open(world.db()).expect("open");
    app.execute_batch("PRAGMA wal_autocheckpoint=0; SELECT 1 FROM item").expect("read");
    let mut follower = follow(&world).await;
    let mut dice = Dice(0x5eed_0055);
    for _ in 0..30 {
        // A table may be there already.
        let _ = app.execute_batch(&statement(&mut dice));
        follower.tick().await.expect("tick");
    }
    drop(follower);
    let asker = Asker::new(&world.vault, Reading { cache: CACHE_USUAL });
    let pasts = states(&asker, &world).await;
    let seen = compare(&asker, &pasts, &mut dice);
    assert!(seen.freed > 5 && seen.rows > 3000, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_between_which_pages_were_freed_differ_as_the_whole_merge_says() {
    let world = world("DELETE").await;
    let mut dice = Dice(0x5eed_0046);
    let asker = Asker::new(&world.vault, Reading { cache: CACHE_USUAL });
    let mut pasts = Vec::new();
    for _ in 0..12 {
        let id = world.backup().await.expect("backup").snapshot;
        pasts.push(asker.open(&source(), &Target::Id(id.to_string())).await.expect("opens"));
        let app = Connection::open(world.db()).expect("open");
        for _ in 0..=dice.roll(2) {
            let _ = app.execute_batch(&statement(&mut dice));
        }
    }
    let seen = compare(&asker, &pasts, &mut dice);
    assert!(seen.freed > 3 && seen.rows > 1000, "{seen:?}");
}
