//! `backstay show`: one snapshot in full, and the branches it stands among.

use super::list::Row;
use super::restore;
use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::output::time;
use crate::output::{Page, View, counted};
use crate::vault;
use backstay_format::facts::{Branch, Mark};
use backstay_model::catalog::{MarkKind, choose};
use backstay_model::lock::Horizon;
use backstay_model::{ByteLen, Moment, ObjectId};
use backstay_ops::OpsError;
use backstay_ops::catalog::Vault;
use backstay_ops::retain;
use backstay_store::repo::{Manifest, Record};
use jiff::tz::TimeZone;

pub async fn run(context: &Context, args: &args::Show) -> Outcome {
    let settings = context.settings()?.on_copy(args.from_copy.as_ref())?;
    let source = settings.source(&args.source)?;
    let vault = vault::open(context, &settings).await?;
    let (target, _) = restore::target(context, &args.point)?;
    let catalog = vault.catalog(&source.name).await?;
    let snapshot = choose(&catalog.snapshots, &target).map_err(OpsError::from)?;
    let front = catalog.front(&snapshot.id).ok_or_else(|| missing(&snapshot.id))?;
    let manifest = vault.repo.manifest(&front.name).await?;
    let about = |mark: &&Record<Mark>| mark.facts.snapshot == snapshot.id;
    let view = ShowView {
        snapshot: Row::of(&source.name, snapshot),
        root: snapshot.root.to_string(),
        previous: snapshot.previous.to_string(),
        signer: front.signer.to_string(),
        manifest_length: ByteLen::new(manifest.len()),
        referred: ByteLen::new(manifest.table.refs().iter().map(|reference| reference.stored).sum()),
        objects: objects(&manifest),
        horizon: retain::horizon_of(&vault, &catalog, snapshot).await?,
        marks: catalog.marks.iter().filter(about).map(MarkView::of).collect(),
        sealed: sealed(&vault, &manifest)?,
        branches: vault.repo.branches(&source.name).await?.into_iter().map(|record| record.facts).collect(),
        zone: context.zone.clone(),
    };
    context.printer.show(&view)?;
    Ok(Done::Plainly)
}

fn missing(id: &ObjectId) -> OpsError {
    backstay_model::catalog::NoPoint::UnknownId { id: id.to_string() }.into()
}

fn objects(manifest: &Manifest) -> Vec<ObjectView> {
    let one = |reference: &backstay_format::table::Reference| ObjectView {
        object: reference.object,
        stored: ByteLen::new(reference.stored),
        live_units: reference.live_units,
        total_units: reference.total_units,
    };
    manifest.table.refs().iter().map(one).collect()
}

/// What only the identity opens; absent where it is not at hand. Never the fingerprint key.
fn sealed(vault: &Vault, manifest: &Manifest) -> Result<Option<SealedView>, OpsError> {
    let Some(unsealer) = &vault.unsealer else { return Ok(None) };
    let facts = manifest.unseal(unsealer)?.facts;
    let streams = facts.streams.into_iter().map(|s| StreamView { name: s.name, unit: s.unit, length: s.length });
    Ok(Some(SealedView { host: facts.host, path: facts.path, engine: facts.engine, streams: streams.collect() }))
}

#[derive(serde::Serialize)]
pub struct ShowView {
    pub snapshot: Row,
    pub root: String,
    pub previous: String,
    pub signer: String,
    pub manifest_length: ByteLen,
    /// Bytes of all objects a restore would need.
    pub referred: ByteLen,
    pub objects: Vec<ObjectView>,
    /// Until when nobody can delete it; null where no object lock is known of.
    pub horizon: Option<Horizon>,
    pub marks: Vec<MarkView>,
    pub sealed: Option<SealedView>,
    pub branches: Vec<Branch>,
    #[serde(skip)]
    pub zone: TimeZone,
}

#[derive(serde::Serialize)]
pub struct ObjectView {
    pub object: ObjectId,
    pub stored: ByteLen,
    pub live_units: u32,
    pub total_units: u32,
}

#[derive(serde::Serialize)]
pub struct MarkView {
    pub kind: MarkKind,
    pub at: Moment,
    pub by: String,
    pub evidence: serde_json::Value,
}

impl MarkView {
    fn of(mark: &Record<Mark>) -> Self {
        let facts = &mark.facts;
        Self { kind: facts.kind, at: facts.at, by: mark.signer.to_string(), evidence: facts.evidence.clone() }
    }
}

#[derive(serde::Serialize)]
pub struct SealedView {
    pub host: String,
    pub path: String,
    pub engine: serde_json::Value,
    pub streams: Vec<StreamView>,
}

#[derive(serde::Serialize)]
pub struct StreamView {
    pub name: String,
    pub unit: u32,
    pub length: ByteLen,
}

impl View for ShowView {
    fn render(&self, page: &mut Page) {
        let row = &self.snapshot;
        page.line(&format!("{} {}  {}", row.source, row.id, row.state()));
        page.evidence("taken", &time::resolved(row.taken, &self.zone));
        let place = format!("number {}, branch {}, position {}", row.sequence, row.branch, row.position);
        page.evidence("place", &place);
        if let Some(label) = &row.label {
            page.evidence("label", label.as_str());
        }
        page.evidence("size", &format!("{}, {} added", row.length, row.added));
        page.evidence("refers to", &format!("{} in {}", self.referred, counted(self.objects.len(), "object")));
        if let Some(horizon) = &self.horizon {
            let until = horizon.until.map_or("not known: an object is not listed".to_owned(), |until| {
                format!("until {}, by all it refers to", time::local(until, &self.zone))
            });
            page.evidence(if horizon.short { "LOCK TOO SHORT" } else { "locked" }, &until);
        }
        page.evidence("root digest", &self.root);
        page.evidence("signer", &self.signer);
        match &self.sealed {
            Some(sealed) => {
                page.evidence("host", &sealed.host);
                page.evidence("path", &sealed.path);
                page.evidence("engine", &sealed.engine.to_string());
            }
            None => page.evidence("sealed", "host, path and engine facts need the key, which is not here"),
        }
        for mark in &self.marks {
            let words = format!("{} {}", time::local(mark.at, &self.zone), mark.evidence);
            page.evidence(mark.kind.word(), &words);
        }
        for branch in &self.branches {
            page.evidence("branch", &branch_words(branch));
        }
    }
}

fn branch_words(branch: &Branch) -> String {
    let reason = serde_json::to_value(branch.reason).ok();
    let reason = reason.as_ref().and_then(|reason| reason.as_str()).unwrap_or_default().replace('-', " ");
    match branch.parent {
        Some(parent) => format!("{} from {} at {} ({reason})", branch.branch, parent.branch, parent.position),
        None => format!("{} ({reason})", branch.branch),
    }
}
