//! `backstay scrub`: everything the repository holds, read once, and healed from a copy where there is one.

use super::check;
use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::output::{Page, View, counted, time};
use crate::vault;
use backstay_model::moment::human_span;
use backstay_model::scrub::Reason;
use backstay_model::{ByteLen, Verdict};
use backstay_ops::check::{CheckReport, Depth};
use backstay_ops::scrub::{self, Kept, ScrubReport, ScrubRequest, Stray, StrayKind, Unhealed};

/// How many names of a kind a person is shown.
const SHOWN: usize = 10;

pub async fn run(context: &Context, args: &args::Scrub) -> Outcome {
    let settings = context.settings()?;
    let vault = vault::open(context, &settings).await?;
    let copy = match &args.heal_from {
        Some(name) => Some(vault::open(context, &settings.clone().on_copy(Some(name))?).await?),
        None => None,
    };
    let depth = if vault.unsealer.is_some() { Depth::Authentic } else { Depth::Intact };
    let report = scrub::scrub(&vault, &ScrubRequest { depth, from: copy.as_ref() }).await?;
    let any_copy = settings.copies.keys().next().map(ToString::to_string);
    let heals = args.heal_from.is_some();
    let place = settings.repository.to_string();
    let view = ScrubView { report, any_copy, heals, place };
    context.printer.show(&view)?;
    Ok(Done::With(view.report.verdict))
}

#[derive(serde::Serialize)]
pub struct ScrubView {
    #[serde(flatten)]
    pub report: ScrubReport,
    #[serde(skip)]
    pub any_copy: Option<String>,
    #[serde(skip)]
    pub heals: bool,
    #[serde(skip)]
    pub place: String,
}

impl View for ScrubView {
    fn render(&self, page: &mut Page) {
        let report = &self.report;
        page.verdict(report.verdict, "repository", &self.words());
        for kind in &report.kinds {
            page.evidence("holds", &format!("{}, {}", counted(kind.objects, kind.kind), ByteLen::new(kind.bytes)));
        }
        page.evidence("read", &format!("in {}", time::took(report.millis)));
        if report.depth == Depth::Intact {
            page.evidence("depth", "digests and signatures; opening them needs the key, which is not here");
        }
        for healed in &report.healed {
            let how = if healed.replaced { "replaced" } else { "put back" };
            let from = if healed.from_spare { "its spare" } else { "the copy" };
            page.evidence("HEALED", &format!("{} was {how} from {from}", healed.object));
        }
        check::render_problems(&report.problems, page);
        for source in &report.sources {
            render_source(source, page);
        }
        for unhealed in &report.unhealed {
            page.evidence("NOT HEALED", &self.why(unhealed));
        }
        for kept in &report.kept {
            page.evidence("unfinished", &kept_words(kept));
        }
        render_strays(&report.strays, page);
        for name in report.unknown.iter().take(SHOWN) {
            page.evidence("unknown", &format!("{name} is no name Backstay makes"));
        }
        if let Some(next) = self.next() {
            page.next(&next);
        }
    }
}

/// An object that a scrub was stopped at.
pub fn kept_words(kept: &Kept) -> String {
    format!("{} is being replaced; its good bytes are kept beside it", kept.object)
}

fn render_source(source: &CheckReport, page: &mut Page) {
    let bad = source.snapshots.iter().filter(|checked| checked.verdict != Verdict::Pass).count();
    let words = match (bad, source.snapshots.len()) {
        (0, all) => format!("{}, every one whole", counted(all, "snapshot")),
        (bad, all) => format!("{bad} of {} cannot be relied on", counted(all, "snapshot")),
    };
    page.verdict(source.verdict, source.source.as_str(), &words);
    check::render_problems(&source.problems, page);
}

fn render_strays(strays: &[Stray], page: &mut Page) {
    for (kind, words) in [
        (StrayKind::Orphan, "needed by nothing: `backstay retention apply` frees them"),
        (StrayKind::Young, "that a running backup may be about to name"),
        (StrayKind::Condemned, "condemned, and deleted by `backstay retention apply` when the grace is over"),
    ] {
        let those: Vec<&Stray> = strays.iter().filter(|stray| stray.kind == kind).collect();
        let Some(oldest) = those.iter().map(|stray| stray.age_millis).max() else { continue };
        let bytes = ByteLen::new(those.iter().map(|stray| stray.bytes).sum());
        let packs = counted(those.len(), "pack");
        page.evidence("unused", &format!("{packs}, {bytes}, up to {} old, {words}", human_span(oldest.max(0))));
        for stray in those.iter().take(SHOWN).filter(|_| kind == StrayKind::Orphan) {
            page.evidence("", &stray.object);
        }
    }
}

impl ScrubView {
    fn words(&self) -> String {
        let objects: u64 = self.report.kinds.iter().map(|kind| kind.objects).sum();
        let healed = match self.report.healed.len() {
            0 => String::new(),
            healed => format!("; {} brought back", counted(healed, "object")),
        };
        match self.report.verdict {
            Verdict::Pass => format!("all of {} is as it was written{healed}", counted(objects, "object")),
            Verdict::Inconclusive => format!("some of {} could not be read{healed}", counted(objects, "object")),
            Verdict::Partial => format!("something is left to do{healed}"),
            Verdict::Fail => format!("DAMAGE{healed}"),
        }
    }

    fn why(&self, unhealed: &Unhealed) -> String {
        let object = &unhealed.object;
        match unhealed.why {
            Reason::NoGoodBytes => format!("{object}: the copy does not have its bytes either"),
            Reason::NewestSnapshot => {
                format!("{object}: it is the newest snapshot; run `backstay backup`, then the same command again")
            }
            Reason::LastSlot => {
                format!("{object}: a writer may be about to take its place; wait for the next one, then run this again")
            }
            Reason::NotDeletable => format!(
                "{object}: nobody deletes there; look at it, delete that one object below {} yourself, and run this \
                 again",
                self.place
            ),
            Reason::GoodForAnother => format!("{object}: it is what another manifest says of it, so it stays"),
        }
    }

    fn next(&self) -> Option<String> {
        let damage = self.report.verdict == Verdict::Fail;
        match (&self.any_copy, damage && !self.heals, self.report.kept.is_empty()) {
            (Some(copy), true, _) => Some(format!("backstay scrub --heal-from {copy}")),
            (None, true, _) => Some("backstay backup".to_owned()),
            (_, _, false) => Some("backstay scrub".to_owned()),
            _ => None,
        }
    }
}
