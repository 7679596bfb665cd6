//! Custody of the key: showing that a copy held elsewhere really opens the repository.

use crate::OpsError;
use crate::catalog::Vault;
use crate::disk;
use crate::journal;
use backstay_format::facts::AuditAct;
use backstay_model::{Moment, SourceName};
use backstay_store::keyfile::{KeyFile, LEN_MAX};
use backstay_store::repo::{RepoError, SnapshotReader};
use backstay_store::seal::{MasterIdentity, Unsealer};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is known about copies of the key.
#[derive(Debug, Clone, serde::Serialize)]
pub struct CustodyReport {
    /// When a copy was last shown to open the repository, as its audit records.
    pub confirmed: Option<Moment>,
}

/// Reads the audit for the newest confirmation of the present master.
pub async fn custody(vault: &Vault) -> Result<CustodyReport, OpsError> {
    let mut confirmed = None;
    for signer in &vault.repo.conf().signers {
        for record in vault.repo.audit(&signer.key).await? {
            match &record.facts.act {
                AuditAct::KeyConfirmed { master } if *master == vault.repo.conf().master => {
                    confirmed = confirmed.max(Some(record.facts.at));
                }
                _ => {}
            }
        }
    }
    Ok(CustodyReport { confirmed })
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct ConfirmReport {
    pub key_file: PathBuf,
    pub master: String,
    /// A snapshot that was opened with the copy; `None` when there is none yet.
    pub opened: Option<String>,
    pub confirmed: Moment,
}

/// What `confirm` looks at.
pub struct Confirm<'a> {
    pub copy: &'a Path,
    /// The key file in use, which does not count as a copy.
    pub in_use: Option<&'a Path>,
    pub sources: &'a [SourceName],
}

/// Shows that the copy opens the repository, with nothing but the copy, and records it.
pub async fn confirm(vault: &Vault, asked: Confirm<'_>) -> Result<ConfirmReport, OpsError> {
    let path = asked.copy;
    if asked.in_use.is_some_and(|in_use| same_file(in_use, path)) {
        return Err(OpsError::SameKeyFile { path: path.to_owned() });
    }
    let bytes = disk::read_small(path, LEN_MAX as u64)?;
    let lacks = |what| OpsError::KeyLacks { path: path.to_owned(), what };
    let text = String::from_utf8(bytes.ok_or_else(|| lacks("file"))?).map_err(|_| lacks("text of a key file"))?;
    let key = KeyFile::parse(&text).map_err(RepoError::from)?;
    let other = || OpsError::OtherKey { path: path.to_owned() };
    if key.root.as_ref().is_some_and(|root| root.public() != vault.repo.root()) {
        return Err(other());
    }
    if key.identity.is_none() {
        return Err(lacks("master identity"));
    }
    let unlocked = vault.repo.unlock(key.identities()).await?;
    if !unlocked.present {
        return Err(if is_outgrown(vault, &unlocked.masters) {
            OpsError::OutgrownKey { path: path.to_owned() }
        } else {
            other()
        });
    }
    let opened = open_newest(vault, &Unsealer::of(unlocked.masters), asked.sources).await?;
    let confirmed = vault.env.clock.now();
    let master = vault.repo.conf().master.clone();
    journal::record(vault, AuditAct::KeyConfirmed { master: master.clone() }).await?;
    Ok(ConfirmReport { key_file: path.to_owned(), master, opened, confirmed })
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Opens a real page with the copy: equal text of a public key would prove less.
async fn open_newest(vault: &Vault, unsealer: &Unsealer, sources: &[SourceName]) -> Result<Option<String>, OpsError> {
    for source in sources {
        let Some(name) = vault.repo.newest_names(source, 1).await?.into_iter().next() else { continue };
        let manifest = vault.repo.manifest(&name).await?;
        let reader = SnapshotReader::open(vault.repo.clone(), manifest, unsealer)?;
        if reader.stream(0)?.length.get() > 0 {
            reader.unit(0, 0).await?;
        }
        return Ok(Some(format!("{source} {}", name.id)));
    }
    Ok(None)
}

/// Whether one of these was the master before it was changed, as far as this host can tell.
fn is_outgrown(vault: &Vault, held: &[MasterIdentity]) -> bool {
    let known = vault.unsealer.iter().flat_map(Unsealer::identities);
    let known: Vec<String> = known.map(|identity| identity.master().text().to_owned()).collect();
    held.iter().any(|identity| known.iter().any(|text| text == identity.master().text()))
}
