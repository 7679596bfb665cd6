//! `backstay when`: the moment an answer changed.

use super::past;
use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::output::{Page, Traffic, View, counted, time};
use crate::vault;
use backstay_model::{Moment, Verdict};
use backstay_ops::query::Asker;
use backstay_ops::rows::{self, Looked, ShiftKind, WhenRequest};
use jiff::tz::TimeZone;

pub async fn run(context: &Context, args: &args::When) -> Outcome {
    let settings = context.settings()?.on_copy(args.reading.from_copy.as_ref())?;
    let source = settings.source(&args.source)?;
    let since = args.since.as_ref().map(|text| context.read_time(text)).transpose()?;
    let vault = vault::open_to_ask(context, &settings, (&source.name, past::keep(&args.reading))).await?.vault;
    let asker = Asker::new(&vault, past::reading(&args.reading));
    asker.stop().within(args.reading.within.as_ref().map(|age| age.span));
    let kind = if args.drops { ShiftKind::Drops } else { ShiftKind::Changes };
    let request = WhenRequest { source: source.name.clone(), sql: args.sql.clone(), kind, since, every: args.every };
    let found = rows::when(&vault, &asker, &request).await?;
    let view = WhenView {
        verdict: if found.shifts.is_empty() { Verdict::Fail } else { Verdict::Pass },
        source: source.name.to_string(),
        kind,
        shifts: found
            .shifts
            .iter()
            .map(|s| ShiftView { before: Answer::of(&s.before), after: Answer::of(&s.after) })
            .collect(),
        first: Answer::of(&found.first),
        last: Answer::of(&found.last),
        points: found.points,
        asked: found.asked,
        store: context.meters.read(),
        zone: context.zone.clone(),
    };
    let verdict = view.verdict;
    context.printer.show(&view)?;
    Ok(Done::With(verdict))
}

#[derive(serde::Serialize)]
pub struct WhenView {
    /// Pass when such a moment was found.
    pub verdict: Verdict,
    pub source: String,
    pub kind: ShiftKind,
    pub shifts: Vec<ShiftView>,
    pub first: Answer,
    pub last: Answer,
    /// Restore points there are, and how many of them were asked.
    pub points: usize,
    pub asked: usize,
    pub store: Traffic,
    #[serde(skip)]
    zone: TimeZone,
}

#[derive(serde::Serialize)]
pub struct ShiftView {
    pub before: Answer,
    pub after: Answer,
}

/// What a point said.
#[derive(serde::Serialize)]
pub struct Answer {
    pub at: Moment,
    pub snapshot: String,
    pub tx: Option<u64>,
    /// The first row; null where the question had no answer.
    pub row: Option<Vec<serde_json::Value>>,
    pub problem: Option<String>,
    #[serde(skip)]
    shown: String,
}

impl Answer {
    fn of(looked: &Looked) -> Self {
        let row = looked.answer.as_ref().ok();
        let shown = match &looked.answer {
            Ok(row) if row.is_empty() => "no row".to_owned(),
            Ok(row) => row.iter().map(past::shown).collect::<Vec<_>>().join(", "),
            Err(problem) => format!("no answer ({problem})"),
        };
        Self {
            at: looked.point.at,
            snapshot: looked.point.snapshot.to_string(),
            tx: looked.point.tx.map(backstay_model::Tx::get),
            row: row.map(|row| row.iter().map(past::json).collect()),
            problem: looked.answer.as_ref().err().cloned(),
            shown,
        }
    }

    /// The word another command takes for it.
    fn word(&self) -> String {
        self.tx.map_or_else(
            || format!("--snapshot {}", self.snapshot.chars().take(12).collect::<String>()),
            |tx| format!("--tx {tx}"),
        )
    }

    fn said(&self, zone: &TimeZone) -> String {
        format!("{} at {} ({})", self.shown, time::resolved(self.at, zone), self.word())
    }
}

impl View for WhenView {
    fn render(&self, page: &mut Page) {
        let words = match (self.kind, self.shifts.len()) {
            (_, 0) => format!("nothing of the kind among {}", counted(self.points, "point")),
            (ShiftKind::Drops, n) => format!("dropped {}", counted(n as u64, "time")),
            (ShiftKind::Changes, n) => format!("changed {}", counted(n as u64, "time")),
        };
        page.verdict(self.verdict, &self.source, &words);
        for shift in &self.shifts {
            page.evidence("before", &shift.before.said(&self.zone));
            page.evidence("after", &shift.after.said(&self.zone));
        }
        if self.shifts.is_empty() {
            page.evidence("first", &self.first.said(&self.zone));
            page.evidence("last", &self.last.said(&self.zone));
        }
        page.evidence("asked", &format!("{} of {}", self.asked, counted(self.points, "point")));
        if let Some(shift) = self.shifts.last() {
            page.next(&format!("backstay query {} {} 'SELECT ...'", self.source, shift.before.word()));
        }
    }
}
