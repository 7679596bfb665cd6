//! `backstay repo`: the repository's identity, keys and contents, and the custody of its key.

use crate::args::{KeyVerb, RepoVerb};
use crate::config::{KeySource, Settings};
use crate::context::{Context, Done, Outcome};
use crate::output::time;
use crate::output::{Page, View, counted};
use crate::vault;
use backstay_format::facts::Signer;
use backstay_model::{ByteLen, Moment, SourceName, Verdict};
use backstay_ops::custody::{self, Confirm, ConfirmReport};
use jiff::tz::TimeZone;
use std::path::Path;

pub async fn run(context: &Context, verb: &RepoVerb) -> Outcome {
    match verb {
        RepoVerb::Show => show(context).await,
        RepoVerb::Key { verb: KeyVerb::Confirm { key_file } } => confirm(context, key_file).await,
    }
}

async fn show(context: &Context) -> Outcome {
    let settings = context.settings()?;
    let vault = vault::open(context, &settings).await?;
    let conf = vault.repo.conf().clone();
    let mut sources = Vec::new();
    for name in settings.sources.keys() {
        let catalog = vault.catalog(name).await?;
        let objects = vault.repo.list(&format!("data/{name}/")).await?;
        sources.push(SourceContents {
            source: name.clone(),
            snapshots: catalog.snapshots.len(),
            broken: catalog.broken.len(),
            objects: objects.len(),
            bytes: ByteLen::new(objects.iter().map(|entry| entry.len).sum()),
        });
    }
    let view = RepoView {
        location: settings.repository.to_string(),
        id: vault.repo.id().to_string(),
        root: vault.repo.root().to_string(),
        generation: conf.generation,
        created: conf.created,
        master: conf.master,
        sealed: conf.published_identity.is_none(),
        conditional_put: conf.store.conditional_put,
        this_signer: vault.signer.as_ref().map(|signer| signer.public().to_string()),
        identity_at_hand: vault.unsealer.is_some(),
        signers: conf.signers,
        key_confirmed: custody::custody(&vault).await?.confirmed,
        sources,
        zone: context.zone.clone(),
    };
    context.printer.show(&view)?;
    Ok(Done::Plainly)
}

#[derive(serde::Serialize)]
pub struct RepoView {
    pub location: String,
    pub id: String,
    pub root: String,
    pub generation: u64,
    pub created: Moment,
    /// The public half of the master identity.
    pub master: String,
    pub sealed: bool,
    pub conditional_put: bool,
    /// The public half of this host's signing key.
    pub this_signer: Option<String>,
    pub identity_at_hand: bool,
    pub signers: Vec<Signer>,
    pub key_confirmed: Option<Moment>,
    pub sources: Vec<SourceContents>,
    #[serde(skip)]
    pub zone: TimeZone,
}

#[derive(serde::Serialize)]
pub struct SourceContents {
    pub source: SourceName,
    pub snapshots: usize,
    pub broken: usize,
    pub objects: usize,
    pub bytes: ByteLen,
}

impl View for RepoView {
    fn render(&self, page: &mut Page) {
        page.line(&format!("repository {} in {}", self.id, self.location));
        let created = format!("{} (configuration {})", time::local(self.created, &self.zone), self.generation);
        page.evidence("created", &created);
        page.evidence("root", &self.root);
        page.evidence("master", &self.master);
        let sealed = if self.sealed { "yes" } else { "NO: anyone who can read the repository can read the data" };
        page.evidence("sealed", sealed);
        let exclusive = if self.conditional_put { "refused by the store" } else { "NOT refused: let one host write" };
        page.evidence("overwriting", exclusive);
        for signer in &self.signers {
            let roles = serde_json::to_value(&signer.roles).unwrap_or_default();
            let roles: Vec<&str> = roles.as_array().into_iter().flatten().filter_map(|role| role.as_str()).collect();
            let key = signer.key.to_string();
            let here = if Some(&key) == self.this_signer.as_ref() { ", this key" } else { "" };
            page.evidence("signer", &format!("{} {} ({}{here})", signer.name, signer.key.short(), roles.join(", ")));
        }
        let identity = if self.identity_at_hand { "at hand" } else { "not here: no restore from this host" };
        page.evidence("identity", identity);
        let key = match self.key_confirmed {
            Some(at) => format!("a copy was confirmed {}", time::local(at, &self.zone)),
            None => "not confirmed: run `backstay repo key confirm --key-file COPY`".to_owned(),
        };
        page.evidence("key", &key);
        for row in &self.sources {
            let broken = if row.broken > 0 { format!(", {} BROKEN", row.broken) } else { String::new() };
            let (snapshots, objects) = (counted(row.snapshots, "snapshot"), counted(row.objects, "object"));
            let words = format!("{}: {snapshots}{broken}, {objects}, {}", row.source, row.bytes);
            page.evidence("source", &words);
        }
    }
}

async fn confirm(context: &Context, copy: &Path) -> Outcome {
    let settings = context.settings()?;
    let vault = vault::open(context, &settings).await?;
    let copy = context.layers.working_dir.join(copy);
    let sources: Vec<SourceName> = settings.sources.keys().cloned().collect();
    let asked = Confirm { copy: &copy, in_use: in_use(&settings), sources: &sources };
    let report = custody::confirm(&vault, asked).await?;
    context.printer.show(&ConfirmView { verdict: Verdict::Pass, report })?;
    Ok(Done::With(Verdict::Pass))
}

/// The key file this host works with, which does not count as a copy.
fn in_use(settings: &Settings) -> Option<&Path> {
    match &settings.key {
        Some(KeySource::File(path)) => Some(path),
        _ => None,
    }
}

#[derive(serde::Serialize)]
pub struct ConfirmView {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub report: ConfirmReport,
}

impl View for ConfirmView {
    fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, "key", "the copy opens the repository");
        page.evidence("copy", &self.report.key_file.display().to_string());
        let opened = self.report.opened.as_deref().unwrap_or("nothing, since there is no snapshot yet");
        page.evidence("opened", opened);
        page.next("backstay status");
    }
}
