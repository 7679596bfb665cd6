//! `backstay list`: the snapshots, newest first. What is quarantined or broken is shown as such, never left out.
//!
//! What this host has read and verified before is not read again: manifests and marks never change. Whether the
//! store still holds what was put there is `check`'s question.

use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::output::table::{Align, Table};
use crate::output::time;
use crate::output::{Page, Traffic, View};
use crate::vault;
use backstay_model::catalog::{Keep, MarkKind, Quality, Snapshot};
use backstay_model::{ByteLen, Label, Moment, SourceName, Tx};
use backstay_ops::catalog::Catalog;
use backstay_ops::prove::with_causes;
use jiff::tz::TimeZone;

pub async fn run(context: &Context, args: &args::List) -> Outcome {
    let settings = context.settings()?.on_copy(args.from_copy.as_ref())?;
    let vault = vault::open(context, &settings).await?;
    let newest = usize::try_from(args.limit).ok().filter(|limit| *limit > 0);
    let named: Vec<SourceName> = args.source.iter().cloned().collect();
    let mut view = ListView {
        snapshots: Vec::new(),
        broken: Vec::new(),
        mark_faults: Vec::new(),
        older: Vec::new(),
        store: context.meters.read(),
        zone: context.zone.clone(),
    };
    let chosen = settings.chosen(&named)?;
    let names: Vec<&SourceName> = chosen.iter().map(|source| &source.name).collect();
    for (source, catalog) in names.iter().zip(vault.recalled_side_by_side(&names, newest).await?) {
        view.add(source, &catalog, args.all);
    }
    view.snapshots.sort_by_key(|row| std::cmp::Reverse((row.taken, row.sequence)));
    view.store = context.meters.read();
    context.printer.show(&view)?;
    Ok(Done::Plainly)
}

#[derive(serde::Serialize)]
pub struct ListView {
    pub snapshots: Vec<Row>,
    /// Manifests that cannot be verified.
    pub broken: Vec<Broken>,
    /// What is wrong with the marks: a snapshot it may concern is not called proven.
    pub mark_faults: Vec<Fault>,
    /// Sources with older snapshots than those shown.
    pub older: Vec<SourceName>,
    /// What was asked of the repository's store, every attempt counted.
    pub store: Traffic,
    #[serde(skip)]
    pub zone: TimeZone,
}

/// One snapshot in a line.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Row {
    pub id: String,
    pub source: SourceName,
    pub taken: Moment,
    pub sequence: u64,
    pub branch: u64,
    pub position: u64,
    pub length: ByteLen,
    pub added: ByteLen,
    pub quality: Quality,
    pub proven: bool,
    pub quarantined: bool,
    /// An old copy that was brought in: never the latest.
    pub imported: bool,
    /// The state of the log that it was made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_of_state: Option<u64>,
    pub label: Option<Label>,
    pub keep: Option<Keep>,
    pub marks: Vec<MarkKind>,
    /// It will be deleted, and may lack objects already.
    pub condemned: bool,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct Broken {
    pub id: String,
    pub source: SourceName,
    pub sequence: u64,
    pub problem: String,
}

/// A mark that cannot be believed, or one that must be there and is not.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Fault {
    pub source: SourceName,
    pub problem: String,
}

impl Row {
    pub fn of(source: &SourceName, snapshot: &Snapshot) -> Self {
        Self {
            id: snapshot.id.to_string(),
            source: source.clone(),
            taken: snapshot.taken,
            sequence: snapshot.sequence.get(),
            branch: snapshot.branch.get(),
            position: snapshot.position.get(),
            length: snapshot.length,
            added: snapshot.added,
            quality: snapshot.quality,
            proven: snapshot.is_proven(),
            quarantined: snapshot.is_quarantined(),
            imported: snapshot.imported,
            made_of_state: snapshot.made_of.map(Tx::get),
            label: snapshot.label.clone(),
            keep: snapshot.keep,
            marks: snapshot.marks.clone(),
            condemned: false,
        }
    }

    /// The strongest thing known of it.
    pub fn state(&self) -> &'static str {
        if self.condemned {
            return "condemned";
        }
        match (self.quality, self.quarantined, self.proven) {
            (Quality::AsIs, _, _) => "QUARANTINED (as is)",
            (_, true, _) => "QUARANTINED",
            (_, false, true) if self.imported => "proven (old copy)",
            (_, false, false) if self.imported => "stored (old copy)",
            (_, false, true) if self.made_of_state.is_some() => "proven (of the log)",
            (_, false, false) if self.made_of_state.is_some() => "stored (of the log)",
            (_, false, true) => "proven",
            (_, false, false) => "stored",
        }
    }

    fn keep_words(&self) -> String {
        match self.keep {
            None => String::new(),
            Some(Keep::ForEver) => "for ever".to_owned(),
            Some(Keep::Until(until)) => format!("until {until}"),
        }
    }
}

impl ListView {
    fn add(&mut self, source: &SourceName, catalog: &Catalog, all: bool) {
        let shown = catalog.snapshots.iter().filter(|snapshot| all || !snapshot.has(MarkKind::Tombstoned));
        self.snapshots.extend(shown.map(|snapshot| Row::of(source, snapshot)));
        let condemned = catalog.condemned.iter().filter(|_| all);
        self.snapshots.extend(condemned.map(|snapshot| Row { condemned: true, ..Row::of(source, snapshot) }));
        self.broken.extend(broken(source, catalog));
        self.mark_faults.extend(mark_faults(source, catalog));
        self.older.extend(catalog.older.then(|| source.clone()));
    }
}

/// What is wrong with the marks of a source.
pub fn mark_faults(source: &SourceName, catalog: &Catalog) -> Vec<Fault> {
    let problems = catalog.mark_faults.iter().map(|fault| with_causes(fault.error()));
    problems.map(|problem| Fault { source: source.clone(), problem }).collect()
}

/// The manifests of a source that cannot be verified.
pub fn broken(source: &SourceName, catalog: &Catalog) -> Vec<Broken> {
    let one = |(name, error): &(backstay_store::keys::SnapshotName, backstay_store::repo::RepoError)| Broken {
        id: name.id.to_string(),
        source: source.clone(),
        sequence: name.sequence.get(),
        problem: with_causes(error),
    };
    catalog.broken.iter().map(one).collect()
}

impl View for ListView {
    fn render(&self, page: &mut Page) {
        if self.snapshots.is_empty() && self.broken.is_empty() && self.mark_faults.is_empty() {
            page.line("No snapshots yet.");
            page.next("backstay backup");
            return;
        }
        let (left, right) = (Align::Left, Align::Right);
        let mut table = Table::new([
            ("SOURCE", left),
            ("SNAPSHOT", left),
            ("TAKEN", left),
            ("STATE", left),
            ("SIZE", right),
            ("ADDED", right),
            ("KEEP", left),
            ("LABEL", left),
        ]);
        for row in &self.snapshots {
            table.row([
                row.source.to_string(),
                short(&row.id),
                time::local(row.taken, &self.zone),
                row.state().to_owned(),
                row.length.to_string(),
                row.added.to_string(),
                row.keep_words(),
                row.label.as_ref().map(ToString::to_string).unwrap_or_default(),
            ]);
        }
        for row in &self.broken {
            let state = format!("BROKEN: {}", row.problem);
            let empty = String::new;
            table.row([row.source.to_string(), short(&row.id), empty(), state, empty(), empty(), empty(), empty()]);
        }
        page.table(&table);
        for source in &self.older {
            page.line(&format!("There are older snapshots of {source}: `backstay list {source} --limit 0` shows all."));
        }
        for fault in &self.mark_faults {
            page.evidence("MARKS", &format!("{}: {}", fault.source, fault.problem));
        }
    }
}

/// The first eight digits: enough to tell two apart.
fn short(id: &str) -> String {
    id.chars().take(8).collect()
}
