//! The base of a backup: what the repository holds of the source's newest whole snapshot.
//!
//! Kept in a local file per manifest, written before that manifest is committed and used only if the
//! repository's newest manifest is the one it was written for. It is a cache: a host that can read
//! rebuilds it from the repository, one that cannot makes a full snapshot. A crash leaves a file for
//! a manifest that never came to be, which the next run removes.

use crate::OpsError;
use crate::disk::{At, Disk, PathError};
use crate::fingerprints::FingerprintFile;
use backstay_format::facts::{self, FingerprintFacts};
use backstay_format::table::Table;
use backstay_format::tree::{Leaf, Node, NodeRef};
use backstay_format::{Fingerprint, FingerprintKey, layout::FAN_OUT};
use backstay_model::{ByteLen, Digest, Generation, ObjectId, Sequence, UnitSize};
use backstay_store::keys::SnapshotName;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"BKSBASE1";
/// The largest head (everything but fingerprints) that is believed to be one.
const HEAD_MAX: u64 = 2 << 30;

/// What a base says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    pub manifest: ObjectId,
    pub sequence: Sequence,
    /// Which of the snapshot's manifests it was written for: another one refers to other objects.
    #[serde(default = "first")]
    pub generation: Generation,
    pub root: Digest,
    pub unit: u32,
    pub length: ByteLen,
    pub fingerprint: FingerprintFacts,
}

fn first() -> Generation {
    Generation::FIRST
}

/// The map of a stream as it is worked with: encoded leaves, and the nodes above them by level.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapParts {
    pub leaves: Vec<Vec<u8>>,
    /// `nodes[0]` are right above the leaves; the last level is the root alone. Empty for one leaf.
    pub nodes: Vec<Vec<Node>>,
}

impl MapParts {
    /// Where leaf `at` lies; `None` when it is the root, inside the manifest.
    pub fn leaf_ref(&self, at: usize) -> Option<&NodeRef> {
        self.node_ref(0, at)
    }

    /// Where item `at` of a level lies: level 0 are the leaves.
    pub fn node_ref(&self, level: usize, at: usize) -> Option<&NodeRef> {
        self.nodes.get(level)?.get(at / FAN_OUT)?.children.get(at % FAN_OUT)
    }

    pub fn leaf(&self, at: usize) -> Result<Option<Leaf>, backstay_format::Corrupt> {
        self.leaves.get(at).map(|bytes| Leaf::parse(bytes)).transpose()
    }
}

pub struct Base {
    pub facts: BaseFacts,
    pub table: Table,
    pub map: MapParts,
    pub fingerprints: FingerprintFile,
}

impl Base {
    pub fn unit(&self) -> Option<UnitSize> {
        UnitSize::try_from(self.facts.unit).ok()
    }

    pub fn units(&self) -> u64 {
        self.unit().map_or(0, |unit| unit.count(self.facts.length))
    }

    pub fn key(&self) -> FingerprintKey {
        FingerprintKey::new(self.facts.fingerprint.id, *self.facts.fingerprint.key.as_bytes())
    }

    /// Where the base for a manifest lies.
    pub fn path(dir: &Path, manifest: &ObjectId) -> PathBuf {
        dir.join(format!("base-{manifest}"))
    }

    /// Reads the base for a manifest. One that is absent, cut or not what it was written as is `None`:
    /// it is only a cache.
    pub fn load(dir: &Path, name: &SnapshotName) -> Result<Option<Self>, PathError> {
        let base = Self::load_any(dir, &name.id)?;
        Ok(base.filter(|base| base.facts.generation == name.generation))
    }

    /// The same, whichever of the snapshot's manifests it was written for.
    pub fn load_any(dir: &Path, manifest: &ObjectId) -> Result<Option<Self>, PathError> {
        let path = Self::path(dir, manifest);
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.at("open", &path)?,
        };
        let len = file.metadata().at("look at", &path)?.len();
        let Some(head) = read_head(&mut file, len).at("read", &path)? else { return Ok(None) };
        let Some((facts, table, map)) = parse_head(&head) else { return Ok(None) };
        let base_at = (MAGIC.len() + 8 + 32 + head.len()) as u64;
        let fingerprints = FingerprintFile::within(file, base_at);
        let base = Self { facts, table, map, fingerprints };
        let fits = base_at.checked_add(base.units().saturating_mul(Fingerprint::LEN as u64)) == Some(len);
        Ok((fits && base.facts.manifest == *manifest).then_some(base))
    }

    /// Writes a base durably, under the name of its manifest.
    pub fn save(disk: &dyn Disk, dir: &Path, new: &NewBase<'_>) -> Result<(), OpsError> {
        let path = Self::path(dir, &new.facts.manifest);
        let head = encode_head(new);
        let mut front = MAGIC.to_vec();
        front.extend_from_slice(&(head.len() as u64).to_le_bytes());
        front.extend_from_slice(blake3::hash(&head).as_bytes());
        front.extend_from_slice(&head);
        let file = disk.create(&path, 0o600).at("create", &path)?;
        file.write_at(0, &front).at("write", &path)?;
        let mut at = front.len() as u64;
        let mut written = Ok(());
        let units = UnitSize::try_from(new.facts.unit).map_or(0, |unit| unit.count(new.facts.length));
        let read = new.fingerprints.each(units, |batch| {
            if written.is_ok() {
                let bytes: Vec<u8> = batch.iter().flat_map(|f| f.0).collect();
                written = file.write_at(at, &bytes);
                at += bytes.len() as u64;
            }
        });
        read.and(written).at("write", &path)?;
        file.sync().at("sync", &path)?;
        disk.sync_dir(dir).at("sync folder", dir)?;
        Ok(())
    }

    /// Removes a base that could not be used.
    pub fn discard(disk: &dyn Disk, dir: &Path, manifest: &ObjectId) -> Result<(), PathError> {
        let path = Self::path(dir, manifest);
        match disk.remove(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at("remove", &path),
            _ => Ok(()),
        }
    }

    /// Removes the bases of every manifest but one. What cannot be removed stays: it is only space.
    pub fn sweep(disk: &dyn Disk, dir: &Path, keep: &ObjectId) {
        let keep = Self::path(dir, keep);
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_base = entry.file_name().to_string_lossy().starts_with("base-");
            if is_base && entry.path() != keep {
                let _ = disk.remove(&entry.path());
            }
        }
    }
}

/// A base about to be written.
pub struct NewBase<'a> {
    pub facts: BaseFacts,
    pub table: &'a Table,
    pub map: &'a MapParts,
    pub fingerprints: &'a FingerprintFile,
}

fn read_head(file: &mut File, len: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut front = [0; 48];
    if len < front.len() as u64 {
        return Ok(None);
    }
    file.read_exact(&mut front)?;
    let (magic, rest) = front.split_at(8);
    let (head_len, digest) = rest.split_at(8);
    let head_len = u64::from_le_bytes(head_len.try_into().unwrap_or_default());
    if magic != MAGIC || head_len > HEAD_MAX.min(len - front.len() as u64) {
        return Ok(None);
    }
    let mut head = vec![0; head_len as usize];
    file.read_exact(&mut head)?;
    Ok((blake3::hash(&head).as_bytes() == digest).then_some(head))
}

fn encode_head(new: &NewBase<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut blob = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    blob(&facts::encode(&new.facts));
    blob(&new.table.encode());
    blob(&(new.map.leaves.len() as u64).to_le_bytes());
    new.map.leaves.iter().for_each(|leaf| blob(leaf));
    for level in &new.map.nodes {
        blob(&(level.len() as u64).to_le_bytes());
        level.iter().for_each(|node| blob(&node.encode()));
    }
    out
}

fn parse_head(mut head: &[u8]) -> Option<(BaseFacts, Table, MapParts)> {
    let rest = &mut head;
    let facts = facts::parse("a base", blob(rest)?).ok()?;
    let table = Table::parse(blob(rest)?).ok()?;
    let mut map = MapParts::default();
    for _ in 0..count(rest)? {
        map.leaves.push(blob(rest)?.to_vec());
    }
    while !rest.is_empty() {
        let mut level = Vec::new();
        for _ in 0..count(rest)? {
            level.push(Node::parse(blob(rest)?).ok()?);
        }
        map.nodes.push(level);
    }
    Some((facts, table, map))
}

fn blob<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, after) = rest.split_at_checked(8)?;
    let len = usize::try_from(u64::from_le_bytes(len.try_into().ok()?)).ok()?;
    let (blob, after) = after.split_at_checked(len)?;
    *rest = after;
    Some(blob)
}

fn count(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(blob(rest)?.try_into().ok()?))
}
