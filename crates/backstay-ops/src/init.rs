//! Beginning: keys, then the repository. Nothing that exists is ever overwritten.
//!
//! The key file is durable before the repository's first object is made, so there is never a
//! repository whose key was lost in a crash. A run that died in between is taken up: a key file that
//! stands alone is used, not replaced.

use crate::disk::{self, At, Disk};
use crate::{Env, OpsError, leftovers};
use backstay_format::facts::{Conf, Role, Signer, StoreAbilities};
use backstay_model::{RepoId, seams};
use backstay_store::keyfile::{KeyFile, LEN_MAX};
use backstay_store::repo::{NewRepository, RepoError, Repository};
use backstay_store::seal::MasterIdentity;
use backstay_store::signing::SigningKey;
use backstay_store::{Put, Store, StoreError, keys};
use std::path::Path;
use std::sync::Arc;

/// How the repository keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    Sealed,
    /// The master identity is published in the repository: anyone who reads it reads the data.
    Unsealed,
}

pub struct NewVault<'a> {
    pub store: Arc<dyn Store>,
    pub key_file: &'a Path,
    pub sealing: Sealing,
    /// What this host is called among the signers.
    pub host: String,
}

/// What was made.
pub struct Made {
    pub repo: Repository,
    pub keys: KeyFile,
    /// The key file was there from a run that had not finished.
    pub key_file_found: bool,
    pub conditional_put: bool,
}

pub async fn create(env: &Env, new: NewVault<'_>) -> Result<Made, OpsError> {
    sweep(env.disk.as_ref(), new.key_file);
    if !new.store.list(keys::CONF_PREFIX, None, 1).await?.entries.is_empty() {
        return Err(RepoError::AlreadyThere { store: new.store.describe() }.into());
    }
    let id = RepoId::from_bytes(seams::fresh(env.random.as_ref()));
    let (key_file_found, keys) = match read_keys(new.key_file)? {
        Some(keys) => {
            // Whoever made it may have been stopped before its name was durable.
            let folder = disk::folder_of(new.key_file);
            env.disk.sync_dir(folder).at("sync folder", folder)?;
            (true, keys)
        }
        None => (false, write_keys(env, new.key_file, id)?),
    };
    let lacks = |what| OpsError::KeyLacks { path: new.key_file.to_owned(), what };
    let root = keys.root.as_ref().ok_or_else(|| lacks("root signing key"))?;
    let signer = keys.signer.as_ref().ok_or_else(|| lacks("signing key"))?;
    let identity = keys.identity.as_ref().ok_or_else(|| lacks("master identity"))?;
    let conditional_put = probe(env, new.store.as_ref()).await?;
    let conf = Conf {
        generation: 0,
        created: env.clock.now(),
        master: identity.master().text().to_owned(),
        older: None,
        published_identity: (new.sealing == Sealing::Unsealed).then(|| identity.secret_text()),
        signers: vec![Signer { key: signer.public(), name: new.host, roles: Role::ALL.to_vec(), retired: None }],
        recipients: Vec::new(),
        store: StoreAbilities { conditional_put },
    };
    let repo = Repository::create(new.store, NewRepository { id, root, conf }).await?;
    Ok(Made { repo, keys, key_file_found, conditional_put })
}

/// Removes the half-made key files of a beginning that was killed: secrets nobody knows of. One that is being
/// made is held by its maker and stays.
pub fn sweep(disk: &dyn Disk, key_file: &Path) {
    leftovers::sweep(disk, disk::folder_of(key_file));
}

/// Reads the key file, if there is one.
pub fn read_keys(path: &Path) -> Result<Option<KeyFile>, OpsError> {
    let Some(bytes) = disk::read_small(path, LEN_MAX as u64)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(KeyFile::parse(&text).map_err(RepoError::from)?))
}

fn write_keys(env: &Env, path: &Path, id: RepoId) -> Result<KeyFile, OpsError> {
    let keys = KeyFile {
        root: Some(SigningKey::generate(env.random.as_ref())),
        signer: Some(SigningKey::generate(env.random.as_ref())),
        identity: Some(MasterIdentity::generate()),
        ..KeyFile::default()
    };
    let text = keys.render(id, env.clock.now());
    // Under a private name first: a key file is either whole or not there.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staged = path.with_file_name(leftovers::staged_name(&name, &id.short()));
    let file = leftovers::create(env.disk.as_ref(), &staged)?;
    file.write_at(0, text.as_bytes()).at("write", &staged)?;
    file.sync().at("sync", &staged)?;
    let named = env.disk.link(&staged, path).at("create", path);
    env.disk.remove(&staged).at("remove", &staged)?;
    named?;
    env.disk.sync_dir(disk::folder_of(path)).at("sync folder of", path)?;
    Ok(keys)
}

/// Whether the store refuses to overwrite: two puts to one fresh name, the second of which must fail.
async fn probe(env: &Env, store: &dyn Store) -> Result<bool, OpsError> {
    let name = format!("ctl/probe/{}", RepoId::from_bytes(seams::fresh(env.random.as_ref())));
    let key = backstay_store::Key::parse(&name)?;
    store.put_new(&key, bytes::Bytes::from_static(b"first")).await?;
    let second = store.put_new(&key, bytes::Bytes::from_static(b"second")).await?;
    let kept = store.get(&key).await?;
    match store.delete(&key).await {
        // A bucket with object lock keeps it for its time, and nothing looks at it again.
        Ok(()) | Err(StoreError::Locked { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(second == Put::Exists && kept.as_ref() == b"first")
}
