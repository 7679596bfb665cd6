//! `backstay repo`: the repository's identity, keys and contents.

use super::{copy, enroll, key, mend, permissions, repack, signer};
use crate::args::RepoVerb;
use crate::context::{Context, Done, Outcome};
use crate::output::time;
use crate::output::{Page, View, counted};
use crate::vault;
use backstay_format::facts::{Recipient, Signer};
use backstay_model::{ByteLen, Moment, SourceName};
use backstay_ops::custody;
use jiff::tz::TimeZone;

pub async fn run(context: &Context, verb: &RepoVerb) -> Outcome {
    match verb {
        RepoVerb::Show => show(context).await,
        RepoVerb::Copy(args) => copy::run(context, args).await,
        RepoVerb::Key { verb } => key::run(context, verb).await,
        RepoVerb::AuditPerms(args) => permissions::run(context, args).await,
        RepoVerb::Repack(args) => repack::run(context, args).await,
        RepoVerb::Enroll(args) => enroll::run(context, args).await,
        RepoVerb::Signer { verb } => signer::run(context, verb).await,
        RepoVerb::Mend => mend::run(context).await,
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
        recipients: conf.recipients,
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
    /// To whom the master is wrapped, besides the holders of a key file that has it.
    pub recipients: Vec<Recipient>,
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
        let exclusive = if self.conditional_put {
            "refused by the store"
        } else {
            "NOT refused: let one host back up each source, and one maintain"
        };
        page.evidence("overwriting", exclusive);
        for signer in &self.signers {
            let roles: Vec<&str> = signer.roles.iter().map(|role| role.word()).collect();
            let key = signer.key.to_string();
            let here = match &signer.retired {
                Some(_) => ", REMOVED",
                None if Some(&key) == self.this_signer.as_ref() => ", this key",
                None => "",
            };
            page.evidence("signer", &format!("{} {} ({}{here})", signer.name, signer.key.short(), roles.join(", ")));
        }
        for recipient in &self.recipients {
            let by = if recipient.recipient.is_some() { "by an age identity" } else { "by a passphrase" };
            page.evidence("reads", &format!("{} ({by})", recipient.name));
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
