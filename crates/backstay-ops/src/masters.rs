//! Who can read: giving the master identity to one more, and a new master that somebody is not given.
//!
//! The order keeps every state readable by those who should read it. A new master is durable in the key
//! file first; then it is wrapped to everybody who stays, with the masters before it; then the next
//! configuration makes it the master, in one put; then the old wraps go. A crash before that put leaves
//! wraps that nobody counts on and perhaps an identity in the key file that opens nothing; a crash after
//! it leaves old wraps, which open what was sealed before and nothing newer. The next change removes both.

use crate::OpsError;
use crate::disk::{self, At};
use crate::journal;
use crate::trust::{Custodian, Receiver, TrustError, refuse_taken};
use backstay_format::facts::{AuditAct, Recipient};
use backstay_store::Entry;
use backstay_store::keyfile::{self, KeyFile};
use backstay_store::repo::{NewWrap, RepoError};
use backstay_store::seal::MasterIdentity;
use backstay_store::seal::wrap::Lock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, serde::Serialize)]
pub struct AddReport {
    pub name: String,
    /// `age1…` or `ssh-ed25519 …`; absent for a passphrase.
    pub recipient: Option<String>,
    /// The name in the store of the age file that holds the master for it.
    pub wrap: String,
    pub generation: u64,
    pub not_recorded: Option<String>,
}

/// Wraps the present master to one more recipient.
pub async fn add(custodian: &Custodian<'_>, name: &str, to: &Receiver) -> Result<AddReport, OpsError> {
    let repo = &custodian.vault.repo;
    if repo.is_unsealed() {
        return Err(TrustError::Unsealed.into());
    }
    refuse_taken(repo.conf(), name)?;
    let before = repo.wraps().await?;
    let added = custodian.wrap_present(name, to).await?;
    let recipient = added.recipient.clone();
    let wrap = backstay_store::keys::wrap(repo.master(), &added.wrap.id).to_string();
    let repo = custodian.change(|conf| conf.recipients.push(added)).await?;
    sweep(&repo, &before).await;
    let generation = repo.conf().generation;
    let act = AuditAct::RecipientAdded { generation, name: name.to_owned() };
    let not_recorded = journal::note(custodian.vault, act).await;
    Ok(AddReport { name: name.to_owned(), recipient, wrap, generation, not_recorded })
}

/// Where the new master identity goes for whoever makes it.
pub enum KeyHome<'a> {
    /// The key file in use, which holds the master itself: the new one is added to it.
    InUse(&'a Path),
    /// A key file to be made: the key in use does not come from a file.
    Fresh(&'a Path),
    /// None was named.
    Nowhere,
}

/// A new master.
pub struct NewMaster<'a> {
    /// The recipient that is not given it.
    pub without: Option<&'a str>,
    /// The key file as it was read.
    pub held: &'a KeyFile,
    pub home: KeyHome<'a>,
    /// The words of each recipient that is a passphrase.
    pub passphrases: &'a BTreeMap<String, String>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct MasterReport {
    pub generation: u64,
    pub master: String,
    pub before: String,
    /// Who cannot open what is sealed from now on.
    pub removed: Option<String>,
    /// Who can, besides the holders of the new key file.
    pub recipients: Vec<String>,
    /// The key file that holds the new master.
    pub key_file: Option<PathBuf>,
    /// Wraps of the master before that could not be deleted.
    pub left: Vec<String>,
    pub not_recorded: Option<String>,
}

/// Makes a new master and seals to it from now on. What was sealed before stays as it is: whoever is given
/// the new master is given those before it.
pub async fn change(custodian: &Custodian<'_>, new: NewMaster<'_>) -> Result<MasterReport, OpsError> {
    let (vault, random) = (custodian.vault, custodian.vault.env.random.as_ref());
    let staying = staying(custodian, &new)?;
    let masters = custodian.masters()?;
    let before = vault.repo.wraps().await?;
    let fresh = MasterIdentity::generate();
    let master = fresh.master();
    let key_file = keep(custodian, &new, &fresh)?;
    let mut recipients = Vec::new();
    for (name, recipient, to) in &staying {
        let holds = std::slice::from_ref(&fresh);
        let wrap = vault.repo.put_wrap(NewWrap { master: &master, holds, to: to.lock() }, random).await?;
        recipients.push(Recipient { name: name.clone(), recipient: recipient.clone(), wrap });
    }
    let older = NewWrap { master: &master, holds: masters, to: Lock::Recipient(&master) };
    let older = vault.repo.put_wrap(older, random).await?;
    let text = master.text().to_owned();
    let repo = custodian
        .change(|conf| {
            (conf.master, conf.older, conf.recipients) = (text.clone(), Some(older), recipients);
        })
        .await?;
    let left = sweep(&repo, &before).await;
    let generation = repo.conf().generation;
    let act = match new.without {
        Some(name) => AuditAct::RecipientRemoved { generation, name: name.to_owned(), master: text.clone() },
        None => AuditAct::MasterRotated { generation, master: text.clone() },
    };
    let not_recorded = journal::note(vault, act).await;
    Ok(MasterReport {
        generation,
        master: text,
        before: vault.repo.conf().master.clone(),
        removed: new.without.map(str::to_owned),
        recipients: staying.into_iter().map(|(name, ..)| name).collect(),
        key_file,
        left,
        not_recorded,
    })
}

type Staying = (String, Option<String>, Receiver);

/// Everybody who is given the new master. Recipients come from the signed configuration alone.
fn staying(custodian: &Custodian<'_>, new: &NewMaster<'_>) -> Result<Vec<Staying>, OpsError> {
    let conf = custodian.vault.repo.conf();
    if conf.published_identity.is_some() {
        return Err(TrustError::Unsealed.into());
    }
    if let Some(name) = new.without {
        let Some(going) = conf.recipient_named(name) else {
            let have = conf.recipients.iter().map(|r| r.name.clone()).collect();
            return Err(TrustError::Unknown { what: "recipient", name: name.to_owned(), have }.into());
        };
        let own = new.held.publics().iter().any(|public| going.recipient.as_ref() == Some(public));
        if own && !holds_present(custodian, new.held) {
            return Err(TrustError::OwnRecipient { name: name.to_owned() }.into());
        }
    }
    let mut staying = Vec::new();
    for recipient in conf.recipients.iter().filter(|r| new.without != Some(&r.name)) {
        let to = match &recipient.recipient {
            Some(text) => Receiver::parse(text)?,
            None => {
                let words = new.passphrases.get(&recipient.name);
                let needed = || TrustError::PassphraseNeeded { name: recipient.name.clone() };
                Receiver::Passphrase(words.ok_or_else(needed)?.clone())
            }
        };
        staying.push((recipient.name.clone(), recipient.recipient.clone(), to));
    }
    Ok(staying)
}

/// Whether the key file holds the present master itself, and not only what it is wrapped to.
fn holds_present(custodian: &Custodian<'_>, held: &KeyFile) -> bool {
    held.identities().iter().any(|i| i.master().text() == custodian.vault.repo.conf().master)
}

/// Makes the new identity durable where its maker will find it, before anything is sealed to it.
fn keep(custodian: &Custodian<'_>, new: &NewMaster<'_>, fresh: &MasterIdentity) -> Result<Option<PathBuf>, OpsError> {
    let (vault, disk) = (custodian.vault, custodian.vault.env.disk.as_ref());
    if !holds_present(custodian, new.held) {
        // Whoever opens the repository through a wrap is given the new master by a wrap.
        return Ok(None);
    }
    match new.home {
        KeyHome::Nowhere => Err(TrustError::NowhereToWrite.into()),
        KeyHome::InUse(path) => {
            let text = disk::read_small(path, keyfile::LEN_MAX as u64)?.unwrap_or_default();
            let text =
                String::from_utf8(text).map_err(|_| OpsError::KeyLacks { path: path.to_owned(), what: "text" })?;
            let added = keyfile::with_identity(&text, fresh, vault.env.clock.now());
            KeyFile::parse(&added).map_err(RepoError::from)?;
            disk::sweep_staged(disk, path);
            disk::replace(disk, path, added.as_bytes(), 0o600)?;
            Ok(Some(path.to_owned()))
        }
        KeyHome::Fresh(path) => {
            let old = &new.held;
            let whole = KeyFile {
                root: old.root.clone(),
                signer: old.signer.clone(),
                identity: Some(fresh.clone()),
                older: old.identities(),
                ssh: None,
            };
            let text = whole.render(vault.repo.id(), vault.env.clock.now());
            write_new(disk, path, text.as_bytes())?;
            Ok(Some(path.to_owned()))
        }
    }
}

/// Creates a file of secrets, durable, and never replaces one.
pub fn write_new(disk: &dyn disk::Disk, path: &Path, bytes: &[u8]) -> Result<(), OpsError> {
    let file = match disk.create(path, 0o600) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(OpsError::TargetExists { path: path.to_owned() });
        }
        other => other.at("create", path)?,
    };
    let written = file.write_at(0, bytes).at("write", path).and_then(|()| file.sync().at("sync", path));
    if let Err(error) = written {
        // Half a file would be in the way of the next try; it is ours, since it was created above.
        let _ = disk.remove(path);
        return Err(error.into());
    }
    Ok(disk.sync_dir(disk::folder_of(path)).at("sync folder of", path)?)
}

/// Deletes the wraps that were there before the change and that nobody counts on after it. Those that came
/// meanwhile belong to another change, which was too late: its own next try sees to them.
async fn sweep(repo: &backstay_store::repo::Repository, before: &[Entry]) -> Vec<String> {
    let mut left = Vec::new();
    for entry in before.iter().filter(|entry| !repo.needs_wrap(&entry.key)) {
        if repo.store().delete(&entry.key).await.is_err() {
            left.push(entry.key.to_string());
        }
    }
    left
}
