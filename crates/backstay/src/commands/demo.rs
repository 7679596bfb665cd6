//! `backstay demo`: the whole life of a backup on a small shop database, with the commands a person would type.
//!
//! Every step that protects or restores runs this very binary as a child, so that what is shown is what a user
//! would see. What is compared at the end is compared by SQL alone. Leaves nothing behind without `--keep`.

mod stage;

use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, time};
use backstay_model::{Kind, Verdict};
use backstay_sqlite::SqliteError;
use backstay_sqlite::sample::{self, Shop};
use stage::{Stage, SumBy};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Purchases the shop begins with.
const PURCHASES: u64 = 5000;
/// Backups taken while purchases go on.
const BACKUPS_MEANWHILE: usize = 3;

pub async fn run(context: &Context, args: &args::Demo) -> Outcome {
    let stage = Stage::open(context, args)?;
    let view = tokio::task::block_in_place(|| play(context, &stage, args.keep))?;
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

fn play(context: &Context, stage: &Stage<'_>, keep: bool) -> Result<DemoView, Diagnostic> {
    let began = context.clock.now();
    let database = stage.path("shop.db");
    stage.say(&format!("A shop with {PURCHASES} purchases, in {}", database.display()));
    let mut shop = Shop::create(&database, PURCHASES)?;
    stage.backstay(&["init", "--yes", "--source", "shop=./shop.db", "--repo", "./vault"])?;

    stage.say("Customers keep buying while it is backed up:");
    let sold_before = shop.sold();
    meanwhile(stage, &mut shop)?;
    let sold_meanwhile = shop.sold() - sold_before;
    let during = stage.newest_snapshot()?;
    stage.say(&format!("{sold_meanwhile} purchases were made meanwhile. The day ends with one more backup:"));
    stage.backstay(&["backup", "shop", "--label", "end-of-day"])?;
    // The last connection puts the log back into the file: what is damaged next is all there is.
    drop(shop);
    let before = stage.sum(&database)?;
    let expected = sample::read_shop(&database, None)?;

    stage.damage(&database)?;
    let complaint = sample::complaint(&database);
    let said = complaint.as_deref().unwrap_or("nothing");
    stage.say(&format!("Somebody writes over the middle of shop.db. SQLite now says: {said}"));

    let restore_began = context.clock.now();
    stage.backstay(&["restore", "shop", "--confirm", "shop"])?;
    let restore_millis = context.clock.now().millis_since(restore_began).unsigned_abs();
    let after = stage.sum(&database)?;
    let restored = sample::read_shop(&database, None)?;

    stage.say("And the state in the middle of all the writing, beside it:");
    stage.backstay(&["restore", "shop", "--snapshot", &during, "--to", "during.db"])?;
    let during = sample::read_shop(&stage.path("during.db"), None)?;
    let same_beginning = sample::read_shop(&database, Some(during.purchases))?.rows == during.rows;

    let facts = [
        Fact::of("the damage was real", complaint.is_some()),
        Fact::of("every row is back", restored == expected && restored.inconsistent == 0),
        Fact::of("the digests are equal", before == after),
        Fact::of("a backup taken amid writing is one whole state", during.inconsistent == 0 && same_beginning),
        Fact::of("writing went on during the backups", sold_meanwhile > 0),
    ];
    let verdict = if facts.iter().all(|fact| fact.holds) { Verdict::Pass } else { Verdict::Fail };
    Ok(DemoView {
        verdict,
        folder: stage.folder().to_owned(),
        kept: keep,
        purchases: restored.purchases,
        purchases_meanwhile: sold_meanwhile,
        digest_by: before.by,
        digest_before: before.digest,
        digest_after: after.digest,
        facts: facts.into(),
        restore_millis,
        millis: context.clock.now().millis_since(began).unsigned_abs(),
    })
}

/// Sells from a second connection until the backups are done.
fn meanwhile(stage: &Stage<'_>, shop: &mut Shop) -> Result<(), Diagnostic> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let selling = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                shop.sell(1)?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let backups: Result<(), Diagnostic> =
            (0..BACKUPS_MEANWHILE).try_for_each(|_| stage.backstay(&["backup", "shop"]).map(drop));
        stop.store(true, Ordering::SeqCst);
        let sold: Result<(), SqliteError> = selling.join().map_err(|_| {
            Diagnostic::new(Kind::Internal, "the shop's writer stopped").hint("Run `backstay demo` again.")
        })?;
        backups?;
        Ok(sold?)
    })
}

/// Something the demonstration shows.
#[derive(serde::Serialize)]
pub struct Fact {
    pub fact: &'static str,
    pub holds: bool,
}

impl Fact {
    fn of(fact: &'static str, holds: bool) -> Self {
        Self { fact, holds }
    }
}

#[derive(serde::Serialize)]
pub struct DemoView {
    pub verdict: Verdict,
    pub folder: PathBuf,
    pub kept: bool,
    pub purchases: u64,
    pub purchases_meanwhile: u64,
    pub digest_by: SumBy,
    pub digest_before: String,
    pub digest_after: String,
    pub facts: Vec<Fact>,
    pub restore_millis: u64,
    pub millis: u64,
}

impl View for DemoView {
    fn render(&self, page: &mut Page) {
        let words = match self.verdict {
            Verdict::Pass => format!("{} purchases, damaged and restored", self.purchases),
            _ => "something does not hold".to_owned(),
        };
        page.verdict(self.verdict, "demo", &words);
        for fact in &self.facts {
            page.evidence(if fact.holds { "yes" } else { "NO" }, fact.fact);
        }
        page.evidence("digest", &format!("{} ({})", self.digest_after, self.digest_by.words()));
        page.evidence("took", &format!("{}, the restore {}", time::took(self.millis), time::took(self.restore_millis)));
        if self.kept {
            page.gap();
            page.line(&format!("cd {}", self.folder.display()));
            for command in
                ["status", "list", "show shop latest", "check --deep", "restore shop --at '1m ago' --to copy.db"]
            {
                page.line(&format!("backstay {command}"));
            }
        } else {
            page.next("backstay init, in the folder of your own database; or `backstay demo --keep` to explore");
        }
    }
}
