//! Sealed log objects on this host's disk, on their way to a store that is slow or away.
//!
//! Owns the folder `spool` of a source. A file is a line that says what the object is and where following stands
//! after it, and then the very bytes that will be put: sealed like everything else, so the disk learns nothing.
//! Not synced: what a killed process wrote is there for the next one; what a power cut tears does not have the
//! digest its line names and counts as not there. A file is removed once its object is durable.

use super::memory::Standing;
use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::{At, Disk, DiskFile, PathError};
use backstay_format::object::Front;
use backstay_model::{Digest, Sequence, SourceName, StreamId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

const FOLDER: &str = "spool";
/// A log object is smaller, and a line of facts is short.
const FILE_MAX: u64 = 64 << 20;
const LINE_MAX: usize = 4096;

/// What stands in the first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spooled {
    pub sequence: Sequence,
    pub digest: Digest,
    /// Of the sealed bytes.
    content: Digest,
    pub standing: Standing,
}

#[derive(Clone)]
pub struct Spool {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
}

impl Spool {
    pub fn of(vault: &Vault, source: &SourceName) -> Result<Self, PathError> {
        Ok(Self { disk: vault.env.disk.clone(), folder: vault.state.source_dir(source)?.join(FOLDER) })
    }

    /// What any source of this host keeps for a slot of a stream that several share.
    pub fn of_any(vault: &Vault, stream: &StreamId, sequence: Sequence) -> Option<(Spooled, Bytes)> {
        let sources = std::fs::read_dir(vault.state.dir()).into_iter().flatten().flatten();
        let spools = sources.map(|source| Self { disk: vault.env.disk.clone(), folder: source.path().join(FOLDER) });
        spools.into_iter().find_map(|spool| spool.read(stream, sequence))
    }

    fn path(&self, stream: &StreamId, sequence: Sequence) -> PathBuf {
        self.folder.join(format!("{stream}-{sequence}"))
    }

    pub fn write(
        &self,
        stream: &StreamId,
        (sequence, digest): (Sequence, Digest),
        standing: &Standing,
        bytes: &Bytes,
    ) -> Result<(), PathError> {
        let content = Digest::from_bytes(*blake3::hash(bytes).as_bytes());
        let line = Spooled { sequence, digest, content, standing: standing.clone() };
        let mut head = serde_json::to_vec(&line).expect("plain facts can be written to memory");
        head.push(b'\n');
        let disk = self.disk.as_ref();
        let path = self.path(stream, sequence);
        disk.create_dir(&self.folder).at("create", &self.folder)?;
        let _ = disk.remove(&path);
        let file: Box<dyn DiskFile> = disk.create(&path, 0o600).at("create", &path)?;
        let written = file.write_at(0, &head).and_then(|()| file.write_at(head.len() as u64, bytes));
        if written.is_err() {
            let _ = disk.remove(&path);
        }
        written.at("write", &path)
    }

    /// An object that is there whole.
    pub fn read(&self, stream: &StreamId, sequence: Sequence) -> Option<(Spooled, Bytes)> {
        let path = self.path(stream, sequence);
        if std::fs::metadata(&path).ok()?.len() > FILE_MAX {
            return None;
        }
        let all = Bytes::from(std::fs::read(&path).ok()?);
        let end = all.iter().take(LINE_MAX).position(|byte| *byte == b'\n')?;
        let line: Spooled = serde_json::from_slice(all.get(..end)?).ok()?;
        let bytes = all.slice(end + 1..);
        let is_whole = line.content.as_bytes() == blake3::hash(&bytes).as_bytes() && line.sequence == sequence;
        let is_it = Front::parse(&bytes).is_ok_and(|front| front.digest == line.digest);
        (is_whole && is_it).then_some((line, bytes))
    }

    pub fn remove(&self, stream: &StreamId, sequence: Sequence) {
        let _ = self.disk.remove(&self.path(stream, sequence));
    }

    /// Removes what is there of any stream: nothing of it will be put any more.
    pub fn clear(&self) -> Result<(), OpsError> {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = self.disk.remove(&entry.path());
        }
        Ok(())
    }
}
