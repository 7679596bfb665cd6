//! A database past 1 GiB: two levels of map nodes, and the lock-byte page.
//!
//! The file is sparse and most of its pages belong to nothing, which a capture neither knows nor
//! minds; what counts is that every byte comes back, but for the page SQLite never uses.

mod world;

use backstay_model::catalog::Target;
use backstay_ops::check::Depth;
use std::fs::File;
use std::os::unix::fs::FileExt;
use world::World;

const PAGE: u64 = 4096;
const LOCK_BYTE: u64 = 1 << 30;
/// A little more than 512 leaves of 512 pages.
const PAGES: u64 = 512 * 512 + 700;

/// Makes the database as long as `PAGES` says, by its header and by its file.
fn stretch(path: &std::path::Path) {
    let file = File::options().write(true).read(true).open(path).expect("open");
    file.set_len(PAGES * PAGE).expect("stretch");
    file.write_all_at(&(PAGES as u32).to_be_bytes(), 28).expect("page count");
    let mut counter = [0; 4];
    file.read_exact_at(&mut counter, 24).expect("change counter");
    file.write_all_at(&counter, 92).expect("the page count is valid for this change");
}

fn scribble(path: &std::path::Path, page: u64, byte: u8) {
    let file = File::options().write(true).open(path).expect("open");
    file.write_all_at(&[byte; PAGE as usize], page * PAGE).expect("write");
}

fn page_of(path: &std::path::Path, page: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE as usize];
    File::open(path).expect("open").read_exact_at(&mut bytes, page * PAGE).expect("read");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_one_gib_every_page_comes_back_but_the_lock_byte_page() {
    let world = World::new().await;
    world.sql("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    stretch(&world.db());
    for page in [5, 30_000, LOCK_BYTE / PAGE - 1, LOCK_BYTE / PAGE, LOCK_BYTE / PAGE + 1, PAGES - 1] {
        scribble(&world.db(), page, (page % 251) as u8 + 1);
    }
    let first = world.backup().await.expect("backup");
    assert_eq!(first.length.get(), PAGES * PAGE);

    scribble(&world.db(), 5, 0xee);
    scribble(&world.db(), PAGES - 2, 0xdd);
    let second = world.backup().await.expect("backup");
    assert_eq!(second.units_stored, 2);
    // Two pages, two leaves, two nodes above them and the manifest; not the map of a gigabyte.
    assert!(second.stored.get() < 64 << 10, "{}", second.stored);

    let to = world.dir().join("restored.db");
    world.restore(Target::Latest, &to).await.expect("restore");
    assert_eq!(std::fs::metadata(&to).expect("restored").len(), PAGES * PAGE);
    for page in [0, 1, 5, 6, 30_000, LOCK_BYTE / PAGE - 1, LOCK_BYTE / PAGE + 1, PAGES - 2, PAGES - 1] {
        assert_eq!(page_of(&to, page), page_of(&world.db(), page), "page {page}");
    }
    assert_eq!(page_of(&to, LOCK_BYTE / PAGE), vec![0; PAGE as usize], "the lock-byte page is zeros");
    assert!(world.check(Depth::Authentic).await.expect("check").problems.is_empty());
}
