//! Rescue against the `sqlite3` program's own: databases damaged in many ways, by seeds.

mod oracle;
mod specimen;

use backstay_model::Verdict;
use backstay_sqlite::rescue::{FilePages, Rescue, RescueReport, rescue};
use oracle::Oracle;
use specimen::{Content, FORMS, Form, content, make, missing, schema};
use std::path::Path;

fn rescued(from: &Path, to: &Path) -> RescueReport {
    let pages = FilePages::open(from).expect("a database of the test");
    let job = Rescue { pages: &pages, likeness: pages.likeness, to, deleted: false, cancelled: &|| false };
    rescue(&job).expect("a database of the test")
}

#[test]
fn an_undamaged_database_comes_back_row_for_row() {
    let dir = tempfile::tempdir().expect("a database of the test");
    for (at, form) in FORMS.into_iter().enumerate() {
        let (from, to) = (dir.path().join(format!("from-{at}.db")), dir.path().join(format!("to-{at}.db")));
        make(&from, form);
        let before = std::fs::read(&from).expect("a database of the test");
        let report = rescued(&from, &to);
        assert_eq!(report.verdict(), Verdict::Pass, "{form:?}: {report:#?}");
        assert_eq!(content(&to), content(&from), "{form:?}");
        assert_eq!(schema(&to), schema(&from), "{form:?}");
        assert!(std::fs::read(&from).expect("a database of the test") == before, "the source was changed");
        let conn = rusqlite::Connection::open(&to).expect("a database of the test");
        let whole: String =
            conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a database of the test");
        let kept: (u32, i64, i64) = (
            conn.query_row("PRAGMA page_size", [], |row| row.get(0)).expect("a database of the test"),
            conn.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a database of the test"),
            conn.query_row("PRAGMA application_id", [], |row| row.get(0)).expect("a database of the test"),
        );
        assert_eq!((whole.as_str(), kept), ("ok", (form.page_size, 7, 77)));
    }
}

/// Seeded chance: a failure names its seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    BitFlips,
    ZeroedPages,
    CutTail,
    BrokenRoot,
    BrokenSchema,
    BrokenHeader,
    SwappedPages,
    FreeList,
    OverflowLoop,
    Rubbish,
}

const DAMAGES: [Damage; 10] = [
    Damage::BitFlips,
    Damage::ZeroedPages,
    Damage::CutTail,
    Damage::BrokenRoot,
    Damage::BrokenSchema,
    Damage::BrokenHeader,
    Damage::SwappedPages,
    Damage::FreeList,
    Damage::OverflowLoop,
    Damage::Rubbish,
];

fn roots(path: &Path) -> Vec<usize> {
    let conn = rusqlite::Connection::open(path).expect("a database of the test");
    let mut rows =
        conn.prepare("SELECT rootpage FROM sqlite_schema WHERE rootpage > 1").expect("a database of the test");
    rows.query_map([], |row| row.get::<_, i64>(0))
        .expect("a database of the test")
        .map(|root| root.expect("a database of the test") as usize)
        .collect()
}

/// Pages that begin like the middle of an overflow chain.
fn overflow_pages(bytes: &[u8], size: usize) -> Vec<usize> {
    let pages = bytes.len() / size;
    let next = |page: usize| {
        u32::from_be_bytes(bytes[page * size..page * size + 4].try_into().expect("a database of the test")) as usize
    };
    (1..pages).filter(|page| (2..=pages).contains(&next(*page))).collect()
}

fn damage(bytes: &mut Vec<u8>, kind: Damage, form: Form, roots: &[usize], chance: &mut Chance) {
    let size = form.page_size as usize;
    let pages = bytes.len() / size;
    match kind {
        Damage::BitFlips => (0..20).for_each(|_| {
            let at = 100 + chance.below(bytes.len() - 100);
            bytes[at] ^= 1 << chance.below(8);
        }),
        Damage::ZeroedPages => (0..3).for_each(|_| {
            let page = 1 + chance.below(pages - 1);
            bytes[page * size..(page + 1) * size].fill(0);
        }),
        Damage::CutTail => bytes.truncate(size + chance.below(bytes.len() - size)),
        Damage::BrokenRoot => {
            let root = roots[chance.below(roots.len())] - 1;
            let at = root * size + chance.below(12);
            bytes[at] = chance.below(256) as u8;
            bytes[root * size + 8 + chance.below(size - 8)] ^= 0xff;
        }
        Damage::BrokenSchema => (0..6).for_each(|_| {
            let at = 100 + chance.below(size - 100);
            bytes[at] = chance.below(256) as u8;
        }),
        Damage::BrokenHeader => (0..100).for_each(|at| {
            if chance.below(3) == 0 {
                bytes[at] = chance.below(256) as u8;
            }
        }),
        Damage::SwappedPages => {
            let (a, b) = (1 + chance.below(pages - 1), 1 + chance.below(pages - 1));
            let held = bytes[a * size..(a + 1) * size].to_vec();
            bytes.copy_within(b * size..(b + 1) * size, a * size);
            bytes[b * size..(b + 1) * size].copy_from_slice(&held);
        }
        Damage::FreeList => {
            let first = (1 + chance.below(pages)) as u32;
            bytes[32..36].copy_from_slice(&first.to_be_bytes());
            bytes[36..40].copy_from_slice(&0xffff_u32.to_be_bytes());
        }
        Damage::OverflowLoop => {
            let chained = overflow_pages(bytes, size);
            for _ in 0..3 {
                let page = chained[chance.below(chained.len())];
                bytes[page * size..page * size + 4].copy_from_slice(&(page as u32 + 1).to_be_bytes());
            }
        }
        Damage::Rubbish => {
            let at = size + chance.below(bytes.len() - size);
            let end = bytes.len().min(at + 1 + chance.below(3 * size));
            bytes[at..end].iter_mut().for_each(|byte| *byte = chance.below(256) as u8);
        }
    }
}

/// Rows that `.recover` brings back and that were really there.
fn true_rows(recovered: &Content, original: &Content, table: &str) -> Vec<String> {
    let mut true_rows = recovered.get(table).cloned().unwrap_or_default();
    let invented = missing(&true_rows, &original[table]);
    for line in invented {
        let at = true_rows.iter().position(|row| *row == line).expect("a database of the test");
        true_rows.remove(at);
    }
    true_rows
}

fn compare(form: Form, seeds: std::ops::Range<u64>) {
    let oracle = Oracle::find();
    let dir = tempfile::tempdir().expect("a database of the test");
    let from = dir.path().join("from.db");
    make(&from, form);
    let (whole, original, roots) =
        (std::fs::read(&from).expect("a database of the test"), content(&from), roots(&from));
    let (mut compared, mut given_up, mut brought, mut more) = (0, 0, 0, 0_i64);
    for kind in DAMAGES {
        for seed in seeds.clone() {
            let mut bytes = whole.clone();
            let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            damage(&mut bytes, kind, form, &roots, &mut chance);
            let name = |what: &str| dir.path().join(format!("{what}-{kind:?}-{seed}.db"));
            let (hurt, ours, theirs) = (name("hurt"), name("ours"), name("theirs"));
            std::fs::write(&hurt, &bytes).expect("a database of the test");
            let here = format!("{form:?} {kind:?} seed {seed}");
            let report = rescued(&hurt, &ours);
            assert!(
                std::fs::read(&hurt).expect("a database of the test") == bytes,
                "{here}: the damaged file was changed"
            );
            let ours = content(&ours);
            if !oracle.recover(&hurt, &theirs) {
                given_up += 1;
                continue;
            }
            let theirs = content(&theirs);
            compared += 1;
            // A counter of row numbers is at least as high as the highest number, also one that is rubbish.
            for table in original.keys().filter(|table| *table != "sqlite_sequence") {
                let wanted = true_rows(&theirs, &original, table);
                let nothing = Vec::new();
                let have = ours.get(table).unwrap_or(&nothing);
                let lost = missing(&wanted, have);
                assert!(
                    lost.is_empty(),
                    "{here}: {} rows of {table} that .recover has, {:?}\n{report:#?}",
                    lost.len(),
                    &lost[..lost.len().min(5)]
                );
                brought += wanted.len() as i64;
                more += have.len() as i64 - wanted.len() as i64;
            }
        }
    }
    println!("{form:?}: {compared} compared, {given_up} where .recover gave up, {brought} rows, {more} more of ours");
    assert!(compared > given_up * 3, "{compared} compared, .recover gave up {given_up} times");
}

#[test]
fn every_row_recover_brings_back_is_brought_back_from_small_pages() {
    compare(FORMS[0], 1..5);
    compare(FORMS[1], 1..5);
}

#[test]
fn every_row_recover_brings_back_is_brought_back_from_usual_pages() {
    compare(FORMS[3], 1..9);
}

#[test]
fn every_row_recover_brings_back_is_brought_back_in_other_encodings() {
    compare(FORMS[2], 1..5);
    compare(FORMS[4], 1..5);
}

#[test]
fn every_row_recover_brings_back_is_brought_back_from_the_largest_pages() {
    compare(FORMS[5], 1..4);
}
