//! Which packs were sealed again already, and as what: in memory, and for the next run in the state folder.
//!
//! The file is a cache. A line that is cut or damaged is passed over, and so is a pack the store does not list
//! with its length, or that was condemned meanwhile, or that the present master does not open because it was changed
//! since: it is sealed again. Without the file a pack that two
//! snapshots share may come to be stored twice, until one of them goes.

use crate::OpsError;
use crate::catalog::{PruneRead, Vault, record_of};
use crate::disk::{self, DiskFile};
use backstay_format::table::Reference;
use backstay_format::{ObjectType, hex};
use backstay_model::{Digest, ObjectId, SourceName};
use backstay_store::keys;
use backstay_store::seal::Unsealer;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest file that is believed to be one: a line for each of a million packs.
const FILE_MAX: u64 = 1 << 30;

/// A pack that was sealed again.
pub(super) struct Pack {
    pub old: ObjectId,
    pub reference: Reference,
    pub wrap: Arc<[u8]>,
    /// How many bytes later its frames begin.
    pub moved: i64,
}

pub(super) struct Made {
    packs: HashMap<ObjectId, Pack>,
    path: PathBuf,
    /// `None` when the folder takes nothing: then the next run knows less.
    file: Option<(Box<dyn DiskFile>, u64)>,
}

/// One line of the file, behind its digest.
#[derive(Serialize, Deserialize)]
struct Line {
    old: ObjectId,
    new: ObjectId,
    stored: u64,
    digest: Digest,
    salt: Digest,
    /// In hexadecimal.
    wrap: String,
    moved: i64,
    total_units: u32,
}

impl Made {
    pub async fn load(vault: &Vault, present: &Unsealer, source: &SourceName) -> Result<Self, OpsError> {
        let path = vault.state.source_dir(source)?.join("rewritten");
        let text = disk::read_small(&path, FILE_MAX).ok().flatten().unwrap_or_default();
        let lines: Vec<Line> = text.split(|byte| *byte == b'\n').filter_map(parse).collect();
        let usable = if lines.is_empty() { HashMap::new() } else { usable(vault, source).await? };
        let good = |line: &Line| usable.get(&line.new) == Some(&line.stored);
        // A run seals many packs with one key.
        let mut wraps: HashMap<String, Option<Arc<[u8]>>> = HashMap::new();
        let packs = lines.into_iter().filter(good).filter_map(|line| line.into_pack(present, &mut wraps));
        let packs: HashMap<ObjectId, Pack> = packs.map(|pack| (pack.old, pack)).collect();
        let mut made = Self { packs, path, file: None };
        made.file = made.begin_file(vault).ok();
        Ok(made)
    }

    /// The file anew, with what of it is good.
    fn begin_file(&self, vault: &Vault) -> std::io::Result<(Box<dyn DiskFile>, u64)> {
        let disk = vault.env.disk.as_ref();
        let next = self.path.with_extension("new");
        let _ = disk.remove(&next);
        let file = disk.create(&next, 0o600)?;
        let text: Vec<u8> = self.packs.values().flat_map(line).collect();
        file.write_at(0, &text)?;
        file.sync()?;
        disk.rename(&next, &self.path)?;
        disk.sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok((file, text.len() as u64))
    }

    pub fn get(&self, old: &ObjectId) -> Option<&Pack> {
        self.packs.get(old)
    }

    pub fn packs(&self) -> impl Iterator<Item = &Pack> {
        self.packs.values()
    }

    /// Remembers a pack that is durable.
    pub fn add(&mut self, pack: Pack) {
        if let Some((file, len)) = &mut self.file {
            let line = line(&pack);
            match file.write_at(*len, &line).and_then(|()| file.sync()) {
                Ok(()) => *len += line.len() as u64,
                Err(_) => self.file = None,
            }
        }
        self.packs.insert(pack.old, pack);
    }

    /// Everything is done: nobody asks any more.
    pub fn forget(self, vault: &Vault) {
        let _ = vault.env.disk.remove(&self.path);
    }
}

/// The packs that may be referred to, with their lengths.
async fn usable(vault: &Vault, source: &SourceName) -> Result<HashMap<ObjectId, u64>, OpsError> {
    let head = PruneRead::of(&vault.repo).await?.head;
    let recorded = head.as_ref().and_then(|head| record_of(&head.record.facts, source));
    let condemned: HashSet<ObjectId> =
        recorded.iter().flat_map(|recorded| &recorded.pending).flat_map(|batch| &batch.packs).copied().collect();
    let entries = vault.repo.list(&keys::pack_prefix(source)).await?;
    let listed = entries.iter().filter_map(|entry| Some((keys::parse_pack(source, &entry.key)?, entry.len)));
    Ok(listed.filter(|(id, _)| !condemned.contains(id)).collect())
}

fn line(pack: &Pack) -> Vec<u8> {
    let reference = &pack.reference;
    let line = Line {
        old: pack.old,
        new: reference.object,
        stored: reference.stored,
        digest: reference.digest,
        salt: Digest::from_bytes(reference.salt),
        wrap: hex::encode(&pack.wrap),
        moved: pack.moved,
        total_units: reference.total_units,
    };
    let json = serde_json::to_vec(&line).expect("a line is numbers and text");
    let mut out = blake3::hash(&json).to_hex().as_bytes().to_vec();
    out.push(b' ');
    out.extend(json);
    out.push(b'\n');
    out
}

fn parse(line: &[u8]) -> Option<Line> {
    let (digest, rest) = line.split_at_checked(64)?;
    let json = rest.strip_prefix(b" ")?;
    if blake3::hash(json).to_hex().as_bytes() != digest {
        return None;
    }
    serde_json::from_slice(json).ok()
}

impl Line {
    /// `None` when it is sealed to a master of before. `wraps` has what was found out.
    fn into_pack(self, present: &Unsealer, wraps: &mut HashMap<String, Option<Arc<[u8]>>>) -> Option<Pack> {
        let wrap = match wraps.get(&self.wrap) {
            Some(known) => known.clone(),
            None => {
                let wrap = hex::decode(&self.wrap)?;
                let opened = present.opens(&wrap).is_ok_and(|opens| opens).then(|| Arc::from(wrap));
                wraps.insert(self.wrap.clone(), opened.clone());
                opened
            }
        }?;
        let reference = Reference {
            object: self.new,
            kind: ObjectType::Pack,
            stored: self.stored,
            digest: self.digest,
            salt: *self.salt.as_bytes(),
            wrap: 0,
            live_units: 0,
            total_units: self.total_units,
            live_nodes: 0,
        };
        Some(Pack { old: self.old, reference, wrap, moved: self.moved })
    }
}
