//! Another host goes on with a source: what it needs to back up incrementally without reading any backup.
//!
//! That is the source's fingerprint key, and what this host knows of the newest snapshot: its map and the
//! fingerprints of its units. Neither opens anything, but with both one can test guesses about content, so it
//! travels sealed to a one-time identity that the new host made and keeps in its state folder.

use crate::base::Base;
use crate::catalog::Vault;
use crate::disk::{self, At};
use crate::masters::write_new;
use crate::trust::TrustError;
use crate::{OpsError, journal, rebuild};
use backstay_format::facts::{self, AuditAct, FingerprintFacts};
use backstay_model::catalog::Quality;
use backstay_model::{ObjectId, RepoId, SourceName};
use backstay_store::seal::{Master, MasterIdentity, wrap};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The identity in the state folder that an answer is sealed to.
const IDENTITY: &str = "join.key";
/// Snapshots that are looked at for one to build on.
const LOOK_BACK: usize = 16;
/// The longest answer that is read: the fingerprints of some 250 GB.
const ANSWER_MAX: u64 = 2 << 30;

/// The first line of an answer. What follows it is the base as this program keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Handed {
    repo: RepoId,
    source: SourceName,
    manifest: ObjectId,
    fingerprint: FingerprintFacts,
}

/// On the new host: makes a one-time identity, or finds the one it made, and gives its public half.
pub fn request(vault: &Vault, source: &SourceName) -> Result<Master, OpsError> {
    let path = vault.state.source_dir(source)?.join(IDENTITY);
    if let Some(identity) = read_identity(&path)? {
        return Ok(identity.master());
    }
    let identity = MasterIdentity::generate();
    write_new(vault.env.disk.as_ref(), &path, (identity.secret_text() + "\n").as_bytes())?;
    Ok(identity.master())
}

fn read_identity(path: &Path) -> Result<Option<MasterIdentity>, OpsError> {
    let Some(bytes) = disk::read_small(path, 4096)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    // One that was cut short by a crash was given to nobody: it is made again.
    match MasterIdentity::parse(text.trim()) {
        Ok(identity) => Ok(Some(identity)),
        Err(_) => {
            std::fs::remove_file(path).at("remove", path)?;
            Ok(None)
        }
    }
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct AnswerReport {
    pub source: SourceName,
    pub file: PathBuf,
    /// The snapshot the other host can build on.
    pub snapshot: ObjectId,
    pub not_recorded: Option<String>,
}

/// On a host that wrote the newest snapshot, or can read it: hands it over.
pub async fn answer(vault: &Vault, source: &SourceName, to: &Master, file: &Path) -> Result<AnswerReport, OpsError> {
    let dir = vault.state.source_dir(source)?;
    let (fronts, _) = vault.repo.newest_fronts(source, LOOK_BACK).await?;
    let nothing = || TrustError::NothingToHand { source_name: source.clone() };
    let front = fronts.iter().find(|front| front.facts.quality == Quality::Whole).ok_or_else(nothing)?;
    let base = match Base::load(&dir, &front.name)? {
        None if vault.unsealer.is_some() => rebuild::base(vault, &front.name, &dir).await?,
        found => found,
    };
    let base = base.ok_or_else(nothing)?;
    let handed = Handed {
        repo: vault.repo.id(),
        source: source.clone(),
        manifest: front.name.id,
        fingerprint: base.facts.fingerprint.clone(),
    };
    let mut plain = facts::encode(&handed);
    plain.push(b'\n');
    let path = Base::path(&dir, &front.name.id);
    plain.extend(disk::read_small(&path, ANSWER_MAX)?.ok_or_else(nothing)?);
    write_new(vault.env.disk.as_ref(), file, &wrap::seal_bytes(&plain, to))?;
    let act = AuditAct::SourceHandedOver { source: source.clone(), to: to.text().to_owned() };
    let not_recorded = journal::note(vault, act).await;
    Ok(AnswerReport { source: source.clone(), file: file.to_owned(), snapshot: front.name.id, not_recorded })
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct JoinReport {
    pub source: SourceName,
    /// The snapshot the next backup builds on, if it is still the newest then.
    pub snapshot: ObjectId,
}

/// On the new host: takes what was handed over. The one-time identity goes once all of it is durable.
pub fn accept(vault: &Vault, source: &SourceName, file: &Path) -> Result<JoinReport, OpsError> {
    let dir = vault.state.source_dir(source)?;
    let identity_path = dir.join(IDENTITY);
    let bad = |why| TrustError::BadAnswer { path: file.to_owned(), why };
    let identity = read_identity(&identity_path)?.ok_or_else(|| bad("this host has asked for none"))?;
    let sealed = disk::read_small(file, ANSWER_MAX)?.ok_or_else(|| bad("it is not there"))?;
    let plain = wrap::open_bytes(&sealed, &identity, ANSWER_MAX).map_err(|_| bad("it was not made for this host"))?;
    let end = plain.iter().position(|byte| *byte == b'\n').ok_or_else(|| bad("it has no first line"))?;
    let (line, rest) = plain.split_at(end);
    let handed: Handed = facts::parse("an answer", line).map_err(|_| bad("its first line says nothing"))?;
    if handed.repo != vault.repo.id() || handed.source != *source {
        return Err(bad("it is about another source").into());
    }
    let disk = vault.env.disk.as_ref();
    vault.state.keep_fingerprint(source, &handed.fingerprint)?;
    Base::discard(disk, &dir, &handed.manifest)?;
    write_new(disk, &Base::path(&dir, &handed.manifest), rest.get(1..).unwrap_or_default())?;
    if Base::load_any(&dir, &handed.manifest)?.is_none() {
        Base::discard(disk, &dir, &handed.manifest)?;
        return Err(bad("what it says of the newest snapshot is damaged").into());
    }
    disk.remove(&identity_path).at("remove", &identity_path)?;
    Ok(JoinReport { source: source.clone(), snapshot: handed.manifest })
}
