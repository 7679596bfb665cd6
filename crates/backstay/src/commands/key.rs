//! `backstay repo key`: who can open the backups, and the custody of the key.

use super::{kit, rewrite};
use crate::args::KeyVerb;
use crate::config::{KeySource, Settings};
use crate::confirm;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, time};
use crate::passphrase;
use crate::vault::{self, RootHolder};
use backstay_format::facts::Recipient;
use backstay_model::{Kind, Moment, SourceName, Verdict};
use backstay_ops::custody::{self, Confirm, ConfirmReport};
use backstay_ops::masters::{self, AddReport, KeyHome, MasterReport, NewMaster};
use backstay_ops::rewrite::RewriteReport;
use backstay_ops::trust::Receiver;
use backstay_ops::{OpsError, disk};
use backstay_store::keyfile::KeyFile;
use backstay_store::local::OpenMode;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub async fn run(context: &Context, verb: &KeyVerb) -> Outcome {
    match verb {
        KeyVerb::List => list(context).await,
        KeyVerb::Add { recipient, passphrase: _, name } => add(context, recipient.as_deref(), name).await,
        KeyVerb::Remove { name, confirm, key_file, rewrite } => {
            let loss = "a new key is made for what is stored from now on; what was stored before stays readable to \
                        whoever could read it then";
            confirm::by_name(&context.printer, confirm::Stake { name, loss, given: confirm.as_deref() })?;
            let change = Change { without: Some(name), fresh: key_file.as_deref(), rewrite: *rewrite };
            self::change(context, change).await
        }
        KeyVerb::Rotate { key_file, rewrite } => {
            let change = Change { without: None, fresh: key_file.as_deref(), rewrite: *rewrite };
            self::change(context, change).await
        }
        KeyVerb::Rewrite { source } => rewrite::run(context, source.as_ref()).await,
        KeyVerb::Confirm { key_file } => confirm_copy(context, key_file).await,
        KeyVerb::Kit { to } => kit::kit(context, to).await,
        KeyVerb::Export { to, print: _ } => kit::export(context, to.as_deref()).await,
        KeyVerb::Unlock { to } => unlock(context, to).await,
    }
}

async fn list(context: &Context) -> Outcome {
    let settings = context.settings()?;
    let vault = vault::open(context, &settings).await?;
    let repo = &vault.repo;
    let uncounted = match repo.wraps().await {
        Ok(wraps) => Some(wraps.iter().filter(|wrap| !repo.needs_wrap(&wrap.key)).count()),
        // A writer need not be allowed to look there.
        Err(error) if backstay_model::Kinded::kind(&error) == Kind::Denied => None,
        Err(error) => return Err(error.into()),
    };
    let opens = vault.unsealer.as_ref().map(|unsealer| unsealer.identities());
    let opens_new = opens.is_some_and(|ids| ids.iter().any(|id| id.master().text() == repo.conf().master));
    let view = KeysView {
        generation: repo.conf().generation,
        master: repo.conf().master.clone(),
        sealed: !repo.is_unsealed(),
        opens_new,
        opens_older: opens.map_or(0, |ids| ids.len() - usize::from(opens_new)),
        recipients: repo.conf().recipients.clone(),
        uncounted,
        confirmed: custody::custody(&vault).await?.confirmed,
        zone: context.zone.clone(),
    };
    context.printer.show(&view)?;
    Ok(Done::Plainly)
}

#[derive(serde::Serialize)]
pub struct KeysView {
    pub generation: u64,
    /// The public half of the master identity.
    pub master: String,
    pub sealed: bool,
    /// Whether the key at hand opens what is stored now.
    pub opens_new: bool,
    /// How many masters of before it opens.
    pub opens_older: usize,
    pub recipients: Vec<Recipient>,
    /// Wraps that no configuration counts on; null when this host may not look.
    pub uncounted: Option<usize>,
    pub confirmed: Option<Moment>,
    #[serde(skip)]
    pub zone: TimeZone,
}

impl View for KeysView {
    fn render(&self, page: &mut Page) {
        page.line(&format!("master {} (configuration {})", self.master, self.generation));
        if !self.sealed {
            page.evidence("UNSEALED", "anyone who can read the repository can read the data");
        }
        let here = match (self.opens_new, self.opens_older) {
            (true, 0) => "opens everything".to_owned(),
            (true, older) => format!("opens everything, also what was sealed to {older} keys before"),
            (false, 0) => "opens nothing: no restore from this host".to_owned(),
            (false, _) => "opens at most what was sealed before the key was changed".to_owned(),
        };
        page.evidence("the key here", &here);
        for recipient in &self.recipients {
            let by = recipient.recipient.as_deref().unwrap_or("by a passphrase");
            page.evidence("reads", &format!("{}  {by}", recipient.name));
        }
        if let Some(count) = self.uncounted.filter(|count| *count > 0) {
            page.evidence(
                "leftovers",
                &format!("{count} wraps of before or of a change that was stopped; the next change removes them"),
            );
        }
        match self.confirmed {
            Some(at) => page.evidence("copy", &format!("confirmed {}", time::local(at, &self.zone))),
            None => page.evidence("copy", "not confirmed: run `backstay repo key confirm --key-file COPY`"),
        }
    }
}

async fn add(context: &Context, recipient: Option<&str>, name: &str) -> Outcome {
    let settings = context.settings()?;
    let to = match recipient {
        Some(text) => Receiver::parse(text).map_err(OpsError::from)?,
        None => Receiver::Passphrase(passphrase::fresh(&context.printer, name)?),
    };
    let holder = RootHolder::open(context, &settings).await?;
    let report = masters::add(&holder.custodian(), name, &to).await?;
    context.printer.show(&AddedView { verdict: Verdict::Pass, report })?;
    Ok(Done::With(Verdict::Pass))
}

#[derive(serde::Serialize)]
pub struct AddedView {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub report: AddReport,
}

impl View for AddedView {
    fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, &self.report.name, "can open the backups now, old ones included");
        let by = self.report.recipient.as_deref().unwrap_or("the passphrase");
        page.evidence("with", by);
        page.evidence("wrap", &self.report.wrap);
        if let Some(why) = &self.report.not_recorded {
            page.evidence("NOT RECORDED", why);
        }
        page.next("backstay repo key list");
    }
}

/// A change of the master.
struct Change<'a> {
    without: Option<&'a str>,
    fresh: Option<&'a Path>,
    /// What was stored before is sealed to the new one too.
    rewrite: bool,
}

async fn change(context: &Context, Change { without, fresh, rewrite }: Change<'_>) -> Outcome {
    let settings = context.settings()?;
    let holder = RootHolder::open(context, &settings).await?;
    let fresh = fresh.map(|path| context.layers.working_dir.join(path));
    let home = match (&settings.key, &fresh) {
        (_, Some(path)) => KeyHome::Fresh(path),
        (Some(KeySource::File(path)), None) => KeyHome::InUse(path),
        _ => KeyHome::Nowhere,
    };
    let mut passphrases = BTreeMap::new();
    let locked = |r: &&Recipient| r.recipient.is_none() && without != Some(&r.name);
    for recipient in holder.vault.repo.conf().recipients.iter().filter(locked) {
        passphrases.insert(recipient.name.clone(), passphrase::existing(&context.printer, &recipient.name)?);
    }
    let new = NewMaster { without, held: &holder.keys, home, passphrases: &passphrases };
    let report = masters::change(&holder.custodian(), new).await?;
    // The change stands whatever becomes of the rest, and is told first.
    let rewritten = match rewrite {
        true => Some(rewrite::all(context, &settings, None).await),
        false => None,
    };
    let (rewritten, failed) = match rewritten.transpose() {
        Ok(rewritten) => (rewritten, None),
        Err(failed) => (None, Some(failed)),
    };
    let verdict = rewritten.as_ref().map_or(Verdict::Pass, |report| report.verdict);
    context.printer.show(&ChangedView { verdict, report, rewritten })?;
    match failed {
        Some(failed) => {
            Err(failed
                .hint("Run `backstay repo key rewrite`: the key is changed, and what is old is not sealed again."))
        }
        None => Ok(Done::With(verdict)),
    }
}

#[derive(serde::Serialize)]
pub struct ChangedView {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub report: MasterReport,
    /// With `--rewrite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<RewriteReport>,
}

impl View for ChangedView {
    fn render(&self, page: &mut Page) {
        let report = &self.report;
        match &report.removed {
            Some(name) => {
                page.verdict(self.verdict, name, "taken off: what is stored from now on is sealed to a new key")
            }
            None => page.verdict(self.verdict, "key", "what is stored from now on is sealed to a new key"),
        }
        page.evidence("master", &report.master);
        if let Some(path) = &report.key_file {
            page.evidence("key file", &format!("{} holds the new key and those before it", path.display()));
        }
        if !report.recipients.is_empty() {
            page.evidence("reads", &report.recipients.join(", "));
        }
        let who = report.removed.as_deref().unwrap_or("whoever has the key of before");
        let words = match &self.rewritten {
            Some(rewritten) => {
                rewrite::rows(rewritten, page);
                format!("{who} can open what they have kept, and what the next prunes have not deleted yet")
            }
            None => format!("{who} can still open what was stored until now, wherever they can get at it"),
        };
        page.evidence("not undone", &words);
        for wrap in &report.left {
            page.evidence("NOT DELETED", wrap);
        }
        if let Some(why) = &report.not_recorded {
            page.evidence("NOT RECORDED", why);
        }
        if report.key_file.is_some() {
            page.evidence(
                "KEEP A COPY",
                "of the new key file away from this machine: the copies of before do not open what is new",
            );
            page.next("backstay repo key confirm --key-file COPY");
        } else {
            page.next("backstay repo key list");
        }
    }
}

async fn unlock(context: &Context, to: &Path) -> Outcome {
    let settings = context.settings()?;
    // Whoever has nothing but a passphrase has no key file yet.
    let store = vault::store(context, &vault::Reached::of(&settings), OpenMode::Existing).await?;
    let vault = vault::open_with(context, &settings, store, KeyFile::default()).await?;
    let words = passphrase::existing(&context.printer, "the repository")?;
    let Some(unlocked) = vault.repo.unlock_with_passphrase(&words).await? else {
        return Err(Diagnostic::new(
            Kind::Denied,
            "this passphrase opens nothing in the repository; nothing was written",
        )
        .hint("Run `backstay repo key list` to see who has a passphrase, and try again."));
    };
    let mut identities = unlocked.masters.into_iter();
    let keys = KeyFile { identity: identities.next(), older: identities.collect(), ..KeyFile::default() };
    let path = context.layers.working_dir.join(to);
    masters::write_new(&disk::OsDisk, &path, keys.render(vault.repo.id(), context.clock.now()).as_bytes())?;
    context.printer.show(&UnlockedView { verdict: Verdict::Pass, key_file: path })?;
    Ok(Done::With(Verdict::Pass))
}

#[derive(serde::Serialize)]
pub struct UnlockedView {
    pub verdict: Verdict,
    pub key_file: PathBuf,
}

impl View for UnlockedView {
    fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, "key", "the passphrase opens the repository");
        page.evidence("key file", &format!("{} can read every backup, and sign none", self.key_file.display()));
        page.next(&format!("BACKSTAY_KEY_FILE={} backstay restore SOURCE --to FILE", self.key_file.display()));
    }
}

async fn confirm_copy(context: &Context, copy: &Path) -> Outcome {
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
