//! What retention says: for each source what goes and when, what stays and why, and what is in doubt.

use crate::output::table::{Align, Table};
use crate::output::time;
use crate::output::{Page, View, counted};
use backstay_model::Verdict;
use backstay_model::prune::Doubt;
use backstay_model::retention::{Fate, Freed};
use backstay_model::{Generation, Moment, ObjectId};
use backstay_ops::retain::{HoldReport, LogTally, RetainReport, SourceReport, Tally};
use jiff::tz::TimeZone;

/// Refused deletions that are named; the rest is counted.
const REFUSED_SHOWN: usize = 8;

#[derive(serde::Serialize)]
pub struct RetentionView {
    #[serde(flatten)]
    pub report: RetainReport,
    #[serde(skip)]
    pub zone: TimeZone,
}

impl View for RetentionView {
    fn render(&self, page: &mut Page) {
        for row in &self.report.sources {
            self.source(page, row);
        }
        self.logs(page);
        if let Some(why) = &self.report.stopped {
            page.evidence("stopped", why);
        }
        if let Some(next) = self.next() {
            page.next(&next);
        }
    }
}

impl RetentionView {
    /// What becomes of the logs, where there are any.
    fn logs(&self, page: &mut Page) {
        let logs = &self.report.logs;
        if logs.doubted {
            page.evidence("log", "a source is in doubt, or a listing is short: nothing of any log is touched");
            return;
        }
        let words = |tally: LogTally, what: &str| {
            (tally.objects > 0).then(|| format!("{}, {} {what}", counted(tally.objects, "object"), tally.bytes))
        };
        let freed = if self.report.performed { "condemned" } else { "to condemn" };
        let said_twice = match self.report.performed {
            true => "deleted that roll-ups say once more",
            false => "that roll-ups say once more, to compare and delete",
        };
        let rolled = words(logs.rolled, said_twice);
        let all =
            [words(logs.deleted, "deleted"), words(logs.condemned, freed), words(logs.waiting, "waiting"), rolled];
        let said: Vec<String> = all.into_iter().flatten().collect();
        if !said.is_empty() {
            page.evidence("log", &said.join("; "));
        }
        if logs.refused > 0 {
            page.evidence("REFUSED", &format!("{} of a log, by a lock of the store", counted(logs.refused, "object")));
        }
        if logs.contradicted > 0 {
            let which = counted(logs.contradicted, "roll-up");
            page.evidence("ROLL-UP", &format!("{which} with other commits than what it stands for: that stays"));
        }
        if logs.unread > 0 {
            let which = counted(logs.unread, "roll-up");
            page.evidence("log", &format!("{which} cannot be compared without an identity: what it stands for stays"));
        }
    }

    fn source(&self, page: &mut Page, row: &SourceReport) {
        page.verdict(row.verdict, row.source.as_str(), &self.headline(row));
        for doubt in &row.doubts {
            page.evidence("DOUBT", &doubt_words(doubt));
        }
        for spared in &row.spared {
            let words = format!(
                "pack {} is condemned and snapshot {} needs it: it stays, and a writer broke a rule",
                spared.pack.short(),
                spared.needed_by.short()
            );
            page.evidence("SPARED", &words);
        }
        for missing in &row.missing {
            page.evidence(
                "MISSING",
                &format!("pack {} is not listed, and a snapshot that stays needs it", missing.short()),
            );
        }
        self.locks(page, row);
        if !row.doubts.is_empty() {
            return;
        }
        let at = |moment: Moment| time::local(moment, &self.zone);
        let (gone, freed) = if self.report.performed { ("deleted", "condemned") } else { ("to delete", "to condemn") };
        page.evidence(gone, &tally_words(row.deleted));
        let goes = row.goes.map(|goes| format!("; it goes from {}", at(goes))).unwrap_or_default();
        page.evidence(freed, &(tally_words(row.condemned) + &goes));
        if let Some(until) = row.waiting.until {
            let waiting = row.waiting;
            page.evidence(
                "waiting",
                &format!("{} objects, {}; the last goes from {}", waiting.objects, waiting.bytes, at(until)),
            );
        }
        if row.waiting.locked > 0 {
            page.evidence("locked", &format!("{} of them wait for the store's lock alone", row.waiting.locked));
        }
        if row.put_off > 0 {
            page.evidence(
                "put off",
                &format!("{} objects that did not fit into one record; run it again", row.put_off),
            );
        }
        if row.young > 0 {
            page.evidence(
                "too young",
                &format!("{} objects no snapshot names, perhaps of a running backup", row.young),
            );
        }
        if let Some(oldest) = row.oldest.filter(|oldest| oldest.before != oldest.after) {
            page.evidence("reach", &format!("back to {}; before, to {}", at(oldest.after), at(oldest.before)));
        }
        if !self.report.performed {
            page.table(&self.fates(row));
        }
    }

    fn headline(&self, row: &SourceReport) -> String {
        let (stay, go) = row.snapshots.iter().fold((0, 0), |(stay, go), d| match d.fate {
            Fate::Keep(_) => (stay + 1, go),
            Fate::Free(_) => (stay, go + 1),
        });
        match (row.doubts.is_empty(), row.policy.is_set() || go > 0) {
            (false, _) => "nothing of it is touched: what was found cannot be all there is".to_owned(),
            (true, false) => format!("no rule for snapshots is set: all {stay} snapshots stay"),
            (true, true) => format!(
                "{stay} snapshots stay, {go} {}",
                if self.report.performed { "are condemned" } else { "would go" }
            ),
        }
    }

    /// What the store's object lock does, where there is one.
    fn locks(&self, page: &mut Page, row: &SourceReport) {
        for horizon in row.horizons.iter().filter(|horizon| horizon.short) {
            let at = |moment: Option<Moment>| moment.map_or("now".to_owned(), |at| time::local(at, &self.zone));
            page.evidence(
                "LOCK",
                &format!(
                    "snapshot {} can be deleted from {}; it should be locked until {}",
                    horizon.snapshot.short(),
                    at(horizon.until),
                    at(horizon.wanted)
                ),
            );
        }
        for refused in row.refused.iter().take(REFUSED_SHOWN) {
            page.evidence("REFUSED", &format!("{refused} is locked: it stays condemned, and the next run tries again"));
        }
        if let Some(more) = row.refused.len().checked_sub(REFUSED_SHOWN).filter(|more| *more > 0) {
            page.evidence("REFUSED", &format!("{} more", counted(more, "object")));
        }
    }

    fn fates(&self, row: &SourceReport) -> Table {
        let has_lock = !row.horizons.is_empty();
        let columns = ["SNAPSHOT", "TAKEN", "FATE", "WHY", "LOCKED UNTIL"].into_iter().take(4 + usize::from(has_lock));
        let mut table = Table::of(columns.map(|name| (name.to_owned(), Align::Left)).collect());
        let until = |id: ObjectId| row.horizons.iter().find(|horizon| horizon.snapshot == id).and_then(|h| h.until);
        for decision in &row.snapshots {
            let (fate, why) = match &decision.fate {
                Fate::Keep(reasons) => {
                    ("stays", reasons.iter().map(|reason| reason.words()).collect::<Vec<_>>().join(", "))
                }
                Fate::Free(Freed::Outlived) => ("goes", "no rule asks for it any more".to_owned()),
                Fate::Free(Freed::Quarantined) => ("goes", "quarantined, and a good one is there".to_owned()),
                Fate::Free(Freed::GivenUp) => ("goes", "given up".to_owned()),
            };
            let until = until(decision.snapshot).map(|until| time::local(until, &self.zone)).unwrap_or_default();
            table.row([
                decision.snapshot.short(),
                time::local(decision.taken, &self.zone),
                fate.to_owned(),
                why,
                until,
            ]);
        }
        table
    }

    fn next(&self) -> Option<String> {
        let doubted = self.report.sources.iter().find(|row| row.verdict != Verdict::Pass);
        let something = |row: &SourceReport| row.condemned != Tally::default() || row.deleted != Tally::default();
        match doubted {
            Some(row) if row.horizons.iter().any(|horizon| horizon.short) => {
                Some(format!("backstay backup {}", row.source))
            }
            Some(row) if !row.refused.is_empty() => Some("backstay config show --origin".to_owned()),
            Some(row) => Some(format!("backstay check {}", row.source)),
            None if self.report.logs.contradicted > 0 => Some("backstay check".to_owned()),
            None if self.report.stopped.is_some() => Some("backstay retention apply".to_owned()),
            None if !self.report.performed && self.report.sources.iter().any(something) => {
                Some("backstay retention apply".to_owned())
            }
            None => None,
        }
    }
}

fn tally_words(tally: Tally) -> String {
    if tally == Tally::default() {
        return "nothing".to_owned();
    }
    format!("{} snapshots and {} packs, {}", tally.snapshots, tally.packs, tally.bytes)
}

fn doubt_words(doubt: &Doubt) -> String {
    match doubt {
        Doubt::Unverified(manifest) => {
            // Of a later generation the whole name: the id alone is the snapshot's, which another one may speak for.
            let name = match manifest.generation {
                Generation::FIRST => format!("snapshot {}", manifest.id.short()),
                _ => format!("manifest {manifest}"),
            };
            let number = manifest.sequence.get();
            format!("{name} (number {number}) cannot be verified; what it needs is not known")
        }
        Doubt::Unread { name } => format!("{name} has a name this version does not know"),
        Doubt::Hole { from, to } if from == to => format!("snapshot number {from} is missing, and no prune took it"),
        Doubt::Hole { from, to } => format!("snapshots number {from} to {to} are missing, and no prune took them"),
        Doubt::HeadMissing { sequence } => {
            format!("snapshot number {} was the newest once, and is not there", sequence.get())
        }
        Doubt::Marks { count } => format!("{count} marks are missing or cannot be verified: one may be a hold"),
        Doubt::RolledBack { seen, found } => {
            format!("this host has seen snapshot number {seen}, and {found} is the newest that is served")
        }
    }
}

#[derive(serde::Serialize)]
pub struct HoldView {
    #[serde(flatten)]
    pub report: HoldReport,
    #[serde(skip)]
    pub zone: TimeZone,
}

impl View for HoldView {
    fn render(&self, page: &mut Page) {
        let HoldReport { source, snapshot, taken, held, reasons } = &self.report;
        let what = if *held { "is held: no rule frees it" } else { "is released: the rules decide" };
        page.verdict(Verdict::Pass, source.as_str(), &format!("snapshot {} {what}", snapshot.short()));
        page.evidence("taken", &time::local(*taken, &self.zone));
        for reason in reasons {
            page.evidence("reason", reason);
        }
        page.next(&format!("backstay retention plan {source}"));
    }
}
