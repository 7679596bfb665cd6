//! A year in minutes: a database of which one page in a hundred changes at random each day, a backup and a
//! retention run a day. What one snapshot refers to, what the whole repository holds and how long a restore takes,
//! day by day: as a line of text, and as a picture.
//!
//! Run by `cargo xtask bench year`. Ends with a failure when a bound does not hold: the newest snapshot refers to
//! more than 1.3 times what is live, the repository grows once retention has come round, or restores slow down.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the machine's own clock")]

#[path = "../tests/history/mod.rs"]
mod history;
#[path = "../tests/world/mod.rs"]
mod world;

use backstay_model::catalog::Target;
use backstay_model::retention::RetentionPolicy;
use backstay_ops::disk::OsDisk;
use backstay_ops::retain::{self, SourceRules};
use backstay_store::Store;
use backstay_store::memory::MemoryStore;
use history::{BEGINNING, DAY, Dice, Hands};
use jiff::tz::TimeZone;
use rusqlite::Connection;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use world::{World, source};

/// A line of the result.
macro_rules! say {
    ($($words:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

const PAGE: u64 = 4096;
/// Restores are measured this often, three times each.
const MEASURED_DAYS: usize = 30;
/// After so many days every rule has come round once.
const COME_ROUND: usize = 210;

/// One day.
struct Day {
    referred: u64,
    live: u64,
    stored: u64,
    snapshots: usize,
}

struct Measured {
    day: usize,
    took: Duration,
}

struct Year {
    world: World,
    store: Arc<MemoryStore>,
    hands: Hands,
    dice: Dice,
    pages: u64,
    days: Vec<Day>,
    restores: Vec<Measured>,
}

fn number(name: &str, usual: u64) -> u64 {
    let mut words = std::env::args().skip_while(|word| word != name).skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or(usual)
}

#[tokio::main]
async fn main() -> ExitCode {
    let (megabytes, days) = (number("--megabytes", 200), number("--days", 365));
    let began = Instant::now();
    let mut year = Year::begin(megabytes << 20).await;
    for day in 0..days as usize {
        year.day(day).await;
        if day % MEASURED_DAYS == 0 || day + 1 == days as usize {
            year.restore(day).await;
            year.tell(day, began.elapsed());
        }
    }
    year.judge(megabytes, began.elapsed())
}

/// Rows of a page each, of bytes that do not compress.
fn fill(conn: &Connection, rows: u64) {
    conn.execute_batch(&format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows})
         INSERT INTO t(x) SELECT randomblob(3900) FROM n; PRAGMA wal_checkpoint(TRUNCATE)"
    ))
    .expect("filled");
}

/// A digest of every row.
fn digest(path: &Path) -> blake3::Hash {
    let conn = Connection::open(path).expect("open");
    let mut statement = conn.prepare("SELECT id, x FROM t ORDER BY id").expect("select");
    let mut rows = statement.query([]).expect("query");
    let mut hasher = blake3::Hasher::new();
    while let Some(row) = rows.next().expect("row") {
        let (id, x): (i64, Vec<u8>) = (row.get(0).expect("id"), row.get(1).expect("x"));
        hasher.update(&id.to_le_bytes()).update(&x);
    }
    hasher.finalize()
}

impl Year {
    async fn begin(bytes: u64) -> Self {
        let (hands, dice) = (Hands::at(BEGINNING), Dice::of(11));
        let store = Arc::new(MemoryStore::with_clock(Arc::new(hands.other())));
        let over: Arc<dyn Store> = store.clone();
        let folder = tempfile::tempdir().expect("a folder");
        let mut world = World::over(folder, over, Arc::new(OsDisk)).await;
        world.vault.env.clock = Arc::new(hands.clone());
        let pages = bytes / PAGE;
        fill(&Connection::open(world.db()).expect("open"), pages);
        Self { world, store, hands, dice, pages, days: Vec::new(), restores: Vec::new() }
    }

    /// A backup, a retention run, and a day of work.
    async fn day(&mut self, day: usize) {
        self.world.backup().await.expect("backup");
        let policy = RetentionPolicy { daily: 7, weekly: 4, monthly: 6, ..Default::default() };
        let (zone, grace_millis) = (TimeZone::UTC, DAY);
        let rules = [SourceRules { source: source(), policy, zone, grace_millis, log_millis: 7 * DAY }];
        let retained = retain::apply(&self.world.vault, &rules).await.expect("retention");
        assert_eq!(retained.verdict, backstay_model::Verdict::Pass, "day {day}: {retained:?}");
        let (referred, live) = self.newest().await;
        let stored = self.store.dump().values().map(|bytes| bytes.len() as u64).sum();
        let names = self.world.vault.repo.snapshot_names(&source()).await.expect("names");
        self.days.push(Day { referred, live, stored, snapshots: names.len() });
        self.hands.pass(DAY);
        let rows: Vec<String> = (0..self.pages / 100).map(|_| (1 + self.dice.roll(self.pages)).to_string()).collect();
        let change = format!("UPDATE t SET x = randomblob(3900) WHERE id IN ({})", rows.join(","));
        self.world.sql(&format!("PRAGMA synchronous=OFF; {change}; PRAGMA wal_checkpoint(TRUNCATE)"));
    }

    async fn newest(&self) -> (u64, u64) {
        let name = self.world.vault.repo.newest_names(&source(), 1).await.expect("names").remove(0);
        let manifest = self.world.vault.repo.manifest(&name).await.expect("manifest");
        let refs = manifest.table.refs();
        let live = refs.iter().map(|r| r.stored * u64::from(r.live_units) / u64::from(r.total_units.max(1)));
        (refs.iter().map(|r| r.stored).sum(), live.sum())
    }

    /// The newest snapshot, the fastest of three times, compared with what was backed up.
    async fn restore(&mut self, day: usize) {
        // The day's changes came after its backup, so a fresh one is what is live now.
        self.world.backup().await.expect("backup");
        let wanted = digest(&self.world.db());
        let mut took = Duration::MAX;
        for _ in 0..3 {
            let to = self.world.dir().join("restored.db");
            let began = Instant::now();
            self.world.restore(Target::Latest, &to).await.expect("restore");
            took = took.min(began.elapsed());
            assert_eq!(digest(&to), wanted, "day {day} restores row by row");
            std::fs::remove_file(to).expect("removed");
        }
        self.restores.push(Measured { day, took });
    }

    fn tell(&self, day: usize, spent: Duration) {
        let Some(today) = self.days.last() else { return };
        say!(
            "day {day:3}: {:4} snapshots, {:7.1} MiB stored, {:.3} referred to / live, restore {:5.2} s ({:.0} s so far)",
            today.snapshots,
            today.stored as f64 / 1048576.0,
            today.ratio(),
            self.restores.last().map_or(0.0, |measured| measured.took.as_secs_f64()),
            spent.as_secs_f64()
        );
    }

    fn judge(&self, megabytes: u64, spent: Duration) -> ExitCode {
        let ratio = self.days.iter().map(Day::ratio).fold(0.0, f64::max);
        let most = |days: &[Day]| days.iter().map(|day| day.stored).max().unwrap_or(0);
        let (early, late) = self.days.split_at(COME_ROUND.min(self.days.len()));
        // The first snapshot lies in one piece; from a month on pages come from many packs. A busy machine only
        // ever makes a restore slower, so the fastest of a part of the year stands for it.
        let first = self.restores.first().map_or(1.0, |measured| measured.took.as_secs_f64());
        let settled: Vec<f64> = self.restores.iter().filter(|m| m.day > 0).map(|m| m.took.as_secs_f64()).collect();
        let third = settled.len().div_ceil(3);
        let fastest = |part: &[f64]| part.iter().copied().fold(f64::INFINITY, f64::min);
        let (spring, winter) = (fastest(&settled[..third]), fastest(&settled[settled.len() - third..]));
        let grows = if settled.is_empty() { 1.0 } else { winter / spring };
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        say!("stored    {}", sparkline(&self.days.iter().map(|day| day.stored as f64).collect::<Vec<_>>()));
        say!("ratio     {}", sparkline(&self.days.iter().map(Day::ratio).collect::<Vec<_>>()));
        let measured = |m: &Measured| format!("day {} {:.2} s", m.day, m.took.as_secs_f64());
        say!("restores  {}", self.restores.iter().map(measured).collect::<Vec<_>>().join(", "));
        say!("restore   {}", sparkline(&self.restores.iter().map(|m| m.took.as_secs_f64()).collect::<Vec<_>>()));
        say!(
            "{megabytes} MB, {} days in {:.0} s: a snapshot refers to at most {ratio:.3} times of what is live; the \
             repository holds at most {:.0} MiB in the first {COME_ROUND} days and {:.0} MiB after; the first restore \
             takes {first:.2} s, one in the first third of the year {spring:.2} s and in the last third {winter:.2} s",
            self.days.len(),
            spent.as_secs_f64(),
            mib(most(early)),
            mib(most(late)),
        );
        let at = Path::new("target/bench/year.svg");
        std::fs::create_dir_all("target/bench").and_then(|()| std::fs::write(at, self.picture())).expect("a picture");
        say!("picture   {}", at.display());
        let bounds = [
            ("what a snapshot refers to", ratio <= 1.3),
            ("what the repository holds", late.is_empty() || most(late) as f64 <= 1.1 * most(early) as f64),
            ("how long a restore takes", grows <= 1.3),
        ];
        let broken: Vec<&str> = bounds.iter().filter(|(_, holds)| !holds).map(|(what, _)| *what).collect();
        match broken.is_empty() {
            true => ExitCode::SUCCESS,
            false => {
                say!("OUT OF BOUNDS: {}", broken.join(", "));
                ExitCode::FAILURE
            }
        }
    }

    fn picture(&self) -> String {
        let (width, height) = (730.0, 160.0);
        let line = |values: &[f64], colour: &str, top: f64| {
            let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            let step = width / values.len().max(2) as f64;
            let points: Vec<String> = values
                .iter()
                .enumerate()
                .map(|(at, value)| format!("{:.1},{:.1}", at as f64 * step, top + height - value / most * height))
                .collect();
            format!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
                points.join(" ")
            )
        };
        let text = |words: String, y: f64| format!("<text x=\"4\" y=\"{y}\" font-size=\"12\">{words}</text>");
        let stored: Vec<f64> = self.days.iter().map(|day| day.stored as f64 / 1048576.0).collect();
        let ratios: Vec<f64> = self.days.iter().map(Day::ratio).collect();
        let restores: Vec<f64> = self.restores.iter().map(|m| m.took.as_secs_f64()).collect();
        let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let parts = [
            text(format!("stored, at most {:.0} MiB", most(&stored)), 16.0),
            line(&stored, "#1f77b4", 20.0),
            text(format!("referred to / live, at most {:.3}", most(&ratios)), 206.0),
            line(&ratios, "#d62728", 210.0),
            text(format!("restore, at most {:.2} s", most(&restores)), 396.0),
            line(&restores, "#2ca02c", 400.0),
        ];
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"580\" font-family=\"sans-serif\">{}</svg>\n",
            parts.join("")
        )
    }
}

impl Day {
    fn ratio(&self) -> f64 {
        self.referred as f64 / self.live.max(1) as f64
    }
}

/// Sixty marks between nothing and the most.
fn sparkline(values: &[f64]) -> String {
    const MARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let step = values.len().div_ceil(60).max(1);
    let mark = |value: f64| MARKS[((value / most * 7.0).round() as usize).min(7)];
    values.chunks(step).map(|part| mark(part.iter().copied().fold(0.0, f64::max))).collect()
}
