//! The recovery kit: what a person needs to restore when every machine is gone.
//!
//! Gathers the key with every master before it, and the heads of every source, so that whoever restores on a
//! blank machine can tell whether the newest backups are there. Writes new files of mode 0600 and replaces none.

use crate::catalog::Vault;
use crate::disk::{self, At};
use crate::masters::write_new;
use crate::{OpsError, journal};
use backstay_format::facts::AuditAct;
use backstay_model::{Digest, Moment, ObjectId, RepoId, Sequence, SignerKey, SourceName};
use backstay_store::keyfile::KeyFile;
use backstay_store::repo::RepoError;
use std::path::{Path, PathBuf};

/// Everything a kit says.
pub struct Kit {
    pub at: Moment,
    pub repo: RepoId,
    pub root: SignerKey,
    pub master: String,
    /// The text of a key file that opens everything.
    pub key: String,
    pub heads: Vec<Head>,
}

/// The newest snapshot of a source that can be verified.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Head {
    pub source: SourceName,
    pub snapshot: ObjectId,
    pub sequence: Sequence,
    pub taken: Moment,
    pub digest: Digest,
}

/// Reads it together. `held` is the key file as it was read: its root and signing key go along.
pub async fn gather(vault: &Vault, held: &KeyFile) -> Result<Kit, OpsError> {
    let repo = &vault.repo;
    let identities = vault.unsealer()?.identities();
    let (present, older) = identities.split_first().ok_or(RepoError::NoIdentity)?;
    if present.master().text() != repo.conf().master {
        return Err(RepoError::NoIdentity.into());
    }
    let at = vault.env.clock.now();
    let whole = KeyFile {
        root: held.root.clone(),
        signer: held.signer.clone(),
        identity: Some(present.clone()),
        older: older.to_vec(),
        ssh: None,
    };
    let mut heads = Vec::new();
    for source in repo.sources().await? {
        let (fronts, _) = repo.newest_fronts(&source, 1).await?;
        heads.extend(fronts.into_iter().map(|front| Head {
            source: source.clone(),
            snapshot: front.name.id,
            sequence: front.name.sequence,
            taken: front.facts.taken,
            digest: front.digest,
        }));
    }
    let master = repo.conf().master.clone();
    Ok(Kit { at, repo: repo.id(), root: repo.root(), master, key: whole.render(repo.id(), at), heads })
}

/// Puts files into a new folder, or one that is empty.
pub fn write(vault: &Vault, folder: &Path, files: &[(&str, &[u8])]) -> Result<Vec<PathBuf>, OpsError> {
    let disk = vault.env.disk.as_ref();
    disk::create_dirs(disk, folder)?;
    if std::fs::read_dir(folder).at("read folder", folder)?.next().is_some() {
        return Err(OpsError::TargetExists { path: folder.to_owned() });
    }
    let mut written = Vec::new();
    for (name, bytes) in files {
        let path = folder.join(name);
        write_new(disk, &path, bytes)?;
        written.push(path);
    }
    Ok(written)
}

/// Records that the key left this machine: what kept it from being recorded, in words.
pub async fn note(vault: &Vault, kit: &Kit) -> Option<String> {
    journal::note(vault, AuditAct::KitMade { master: kit.master.clone() }).await
}
