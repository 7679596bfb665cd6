//! What a host remembers between runs, per repository and source.
//!
//! All of it may be deleted: the heads seen (so that an older repository is noticed), which file was
//! backed up last (so that another one is), the base of the next backup. The lock keeps two backups
//! of one source on this host apart; it is a lock on a file, so it dies with its process. A second one,
//! `state.lock`, is held only while what is remembered is read, changed and written: a check, a status
//! and a backup that run beside each other lose nothing of what either learnt.

use crate::OpsError;
use crate::disk::{self, At, Disk, PathError};
use backstay_format::facts::{FingerprintFacts, Prune};
use backstay_model::{BranchNo, Digest, Moment, ObjectId, Position, RepoId, Sequence, SignerKey, SourceName};
use backstay_sqlite::FileIdentity;
use backstay_store::foresee::Trail;
use backstay_store::remember::REMEMBERED_MAX;
use backstay_store::repo::{Record, RepoError, SeenConf};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SMALL: u64 = 1 << 20;
const REMEMBERED: &str = "remembered";
const TRAIL: &str = "trail.json";

/// The bytes of the newest configuration.
const KEPT_CONF: &str = "conf.object";

/// The state folder of one repository.
#[derive(Clone)]
pub struct State {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

/// What is remembered of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenSource {
    /// The highest snapshot seen, and its front digest.
    #[serde(default)]
    pub head: Option<SeenHead>,
    /// The highest mark seen of each signer on this source's snapshots.
    #[serde(default)]
    pub marks: BTreeMap<SignerKey, SeenMark>,
    /// The file that was backed up last.
    #[serde(default)]
    pub file: Option<Identity>,
    /// A restore in place that the next backup branches off from.
    #[serde(default)]
    pub restored: Option<Restored>,
    /// The last snapshots this host set out to commit, the newest last: a tip that is none of them was
    /// written by somebody else, or by this host before its disk went back. Written before the commit.
    #[serde(default)]
    pub written: Vec<SeenHead>,
    /// Objects a check found damaged: the next backup stores their live units again.
    #[serde(default)]
    pub suspects: Vec<ObjectId>,
}

/// What is remembered of a keeper's work in the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenKeeper {
    /// The newest prune record seen.
    #[serde(default)]
    pub prune: Option<SeenHead>,
    /// The last two turns this host asked for, each written before it was: if one of them is still the
    /// newest and nobody here is at work, whoever had it is dead. Two, because asking for the next, or
    /// giving the last back, may have failed after it was written here.
    #[serde(default)]
    pub turns: Vec<SeenHead>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenHead {
    pub sequence: Sequence,
    pub digest: Digest,
}

impl SeenHead {
    /// Refuses a history that lacks this snapshot although nothing in it is newer. A manifest that stands
    /// in its place and cannot be verified is a damaged one: an error, but not this one.
    pub fn check(
        &self,
        verified: impl Iterator<Item = (Sequence, Digest)>,
        mut unverified: impl Iterator<Item = Sequence>,
    ) -> Result<(), RepoError> {
        let mut newest = None;
        for (sequence, digest) in verified {
            if sequence > self.sequence || (sequence, digest) == (self.sequence, self.digest) {
                return Ok(());
            }
            newest = newest.max(Some(sequence));
        }
        if newest != Some(self.sequence) && unverified.any(|sequence| sequence == self.sequence) {
            return Ok(());
        }
        let found = newest.map_or(0, Sequence::get);
        Err(RepoError::RolledBack { what: "history", seen: self.sequence.get(), found })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenMark {
    pub sequence: Sequence,
    pub digest: Digest,
    pub at: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}

impl From<FileIdentity> for Identity {
    fn from(id: FileIdentity) -> Self {
        Self { device: id.device, inode: id.inode }
    }
}

/// Written before the swap: it counts only if this very file stands at the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    pub file: Identity,
    pub branch: BranchNo,
    pub position: Position,
}

impl State {
    /// Opens, and makes if need be, the state folder of a repository below `root`.
    pub fn open(disk: Arc<dyn Disk>, root: &Path, repo: RepoId) -> Result<Self, PathError> {
        let dir = root.join(repo.to_string());
        disk::create_dirs(disk.as_ref(), &dir)?;
        Ok(Self { dir, disk })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The newest configuration seen of any repository whose state lies below `root`, by its id.
    pub fn seen_conf(root: &Path, repo: RepoId) -> Result<Option<SeenConf>, PathError> {
        read(&root.join(repo.to_string()).join("conf.json"))
    }

    pub fn remember_conf(&self, seen: SeenConf) -> Result<(), PathError> {
        let path = self.dir.join("conf.json");
        if read::<SeenConf>(&path)?.is_some_and(|known| known == seen) {
            return Ok(());
        }
        let _lock = wait_for(&self.dir.join("state.lock"))?;
        self.write(&path, &seen)
    }

    /// Keeps the verified configuration itself, against the day the store's copy is damaged. What cannot be
    /// written here is only missed then.
    pub fn keep_conf(&self, bytes: &[u8]) -> Result<(), PathError> {
        let path = self.dir.join(KEPT_CONF);
        if disk::read_small(&path, SMALL).ok().flatten().is_some_and(|kept| kept == bytes) {
            return Ok(());
        }
        let _lock = wait_for(&self.dir.join("state.lock"))?;
        disk::sweep_staged(self.disk.as_ref(), &path);
        disk::replace(self.disk.as_ref(), &path, bytes, 0o600)
    }

    /// Every configuration kept below `root`, of whatever repository, with what was seen of it last.
    pub fn kept_confs(root: &Path) -> Vec<(SeenConf, Vec<u8>)> {
        let folders = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        let kept = |folder: PathBuf| {
            let seen = read::<SeenConf>(&folder.join("conf.json")).ok()??;
            Some((seen, disk::read_small(&folder.join(KEPT_CONF), SMALL).ok()??))
        };
        folders.filter_map(kept).collect()
    }

    /// Refuses prune records older than one this host has seen. The outer error is the disk's.
    pub fn check_prune(&self, newest: Option<&Record<Prune>>) -> Result<Result<(), RepoError>, PathError> {
        let Some(seen) = self.keeper()?.prune else { return Ok(Ok(())) };
        let found = newest.map_or(0, |record| record.chain.sequence.get());
        let other = newest.is_some_and(|record| found == seen.sequence.get() && record.digest != seen.digest);
        let older = found < seen.sequence.get() || other;
        let error = RepoError::RolledBack { what: "set of prune records", seen: seen.sequence.get(), found };
        Ok(if older { Err(error) } else { Ok(()) })
    }

    /// What is remembered of a keeper's work.
    pub fn keeper(&self) -> Result<SeenKeeper, PathError> {
        Ok(read(&self.dir.join("keeper.json"))?.unwrap_or_default())
    }

    pub fn update_keeper(&self, change: impl Fn(&mut SeenKeeper)) -> Result<(), PathError> {
        let _lock = wait_for(&self.dir.join("state.lock"))?;
        let mut seen = self.keeper()?;
        change(&mut seen);
        self.write(&self.dir.join("keeper.json"), &seen)
    }

    /// Takes the keeper's work on this host for this process; `None` when another process has it.
    pub fn lock_keeper(&self) -> Result<Option<SourceLock>, PathError> {
        let path = self.dir.join("keeper.lock");
        let file = File::options().write(true).create(true).truncate(false).open(&path).at("open", &path)?;
        let taken = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok(taken.then_some(SourceLock { _file: file }))
    }

    /// The folder of one source.
    pub fn source_dir(&self, source: &SourceName) -> Result<PathBuf, PathError> {
        let dir = self.dir.join(source.as_str());
        disk::create_dirs(self.disk.as_ref(), &dir)?;
        Ok(dir)
    }

    pub fn seen(&self, source: &SourceName) -> Result<SeenSource, PathError> {
        Ok(read(&self.dir.join(source.as_str()).join("seen.json"))?.unwrap_or_default())
    }

    /// The fingerprint key another host handed over, for a backup that finds nothing to build on.
    pub fn fingerprint(&self, source: &SourceName) -> Result<Option<FingerprintFacts>, PathError> {
        read(&self.dir.join(source.as_str()).join("fingerprint.json"))
    }

    pub fn keep_fingerprint(&self, source: &SourceName, facts: &FingerprintFacts) -> Result<(), PathError> {
        let dir = self.source_dir(source)?;
        let _lock = wait_for(&dir.join("state.lock"))?;
        self.write(&dir.join("fingerprint.json"), facts)
    }

    /// Changes what is remembered of a source, and says what it is then. Nobody else's change is lost:
    /// `change` is made to what the file holds under the lock. It may be asked more than once.
    pub fn update(&self, source: &SourceName, change: impl Fn(&mut SeenSource)) -> Result<SeenSource, PathError> {
        let changed = |seen: &SeenSource| {
            let mut new = seen.clone();
            change(&mut new);
            new
        };
        // Most runs learn nothing new; they need no lock and no room on the disk.
        let seen = self.seen(source)?;
        if changed(&seen) == seen {
            return Ok(seen);
        }
        let dir = self.source_dir(source)?;
        let _lock = wait_for(&dir.join("state.lock"))?;
        let seen = self.seen(source)?;
        let new = changed(&seen);
        if new != seen {
            self.write(&dir.join("seen.json"), &new)?;
        }
        Ok(new)
    }

    /// Replaces a file in its folder's own lock by what `make` makes of it then.
    pub(crate) fn replace_locked(&self, path: &Path, make: impl FnOnce() -> Vec<u8>) -> Result<(), PathError> {
        let _lock = wait_for(&disk::folder_of(path).join("state.lock"))?;
        disk::sweep_staged(self.disk.as_ref(), path);
        disk::replace(self.disk.as_ref(), path, &make(), 0o600)
    }

    /// Only under the lock of the folder the file lies in.
    fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), PathError> {
        let bytes = serde_json::to_vec_pretty(value).expect("plain facts can be written to memory");
        disk::sweep_staged(self.disk.as_ref(), path);
        disk::replace(self.disk.as_ref(), path, &bytes, 0o600)
    }

    /// What was remembered of a source's small signed objects, as it was written. Damaged or too long is as good as
    /// none.
    pub fn remembered(&self, source: &SourceName) -> Result<Vec<u8>, PathError> {
        let bytes = disk::read_small(&self.dir.join(source.as_str()).join(REMEMBERED), REMEMBERED_MAX as u64);
        Ok(bytes.unwrap_or_default().unwrap_or_default())
    }

    /// Whether there is any of a source, in whichever repository's memory below `root`.
    pub fn remembers(root: &Path, source: &SourceName) -> bool {
        let folders = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        folders.into_iter().any(|folder| folder.join(source.as_str()).join(REMEMBERED).exists())
    }

    /// What the last who asked this source's past in a store read first. A help: damaged or gone, it is as good as none.
    pub fn trails(root: &Path, source: &SourceName) -> Vec<Trail> {
        let folders = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        folders.filter_map(|folder| read(&folder.join(source.as_str()).join(TRAIL)).ok()?).collect()
    }

    /// Not synced: what a crash takes is found again.
    pub fn keep_trail(&self, source: &SourceName, trail: &Trail) -> Result<(), PathError> {
        let dir = self.source_dir(source)?;
        let path = dir.join(TRAIL);
        if read::<Trail>(&path)?.is_some_and(|known| known == *trail) {
            return Ok(());
        }
        let _lock = wait_for(&dir.join("state.lock"))?;
        let bytes = serde_json::to_vec(trail).expect("plain facts can be written to memory");
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).at("open", &path)?;
        file.write_all(&bytes).at("write", &path)
    }

    /// Appends to it, behind the part of it that makes sense. Not synced: what a crash takes is read again.
    pub fn remember_more(&self, source: &SourceName, sound: usize, more: &[u8]) -> Result<(), PathError> {
        if more.is_empty() || sound + more.len() > REMEMBERED_MAX {
            return Ok(());
        }
        let dir = self.source_dir(source)?;
        let _lock = wait_for(&dir.join("state.lock"))?;
        let path = dir.join(REMEMBERED);
        let open = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.at("open", &path)?;
        let written = file.set_len(sound as u64).and_then(|()| file.seek(std::io::SeekFrom::End(0)));
        written.and_then(|_| file.write_all(more)).at("write", &path)
    }

    /// What was verified before counts no more: everything is read again.
    pub fn remember_nothing(&self, source: &SourceName) -> Result<(), PathError> {
        let dir = self.source_dir(source)?;
        let _lock = wait_for(&dir.join("state.lock"))?;
        let path = dir.join(REMEMBERED);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", &path),
            _ => Ok(()),
        }
    }

    /// A value of its own that a caller under the source's lock keeps beside the rest.
    pub(crate) fn recall<T: DeserializeOwned>(&self, source: &SourceName, file: &str) -> Result<Option<T>, PathError> {
        read(&self.dir.join(source.as_str()).join(file))
    }

    pub(crate) fn note<T: Serialize>(&self, source: &SourceName, file: &str, value: &T) -> Result<(), PathError> {
        let path = self.source_dir(source)?.join(file);
        self.write(&path, value)
    }

    /// Takes the source for this process, or says who has it.
    pub fn lock(&self, source: &SourceName) -> Result<SourceLock, OpsError> {
        let path = self.source_dir(source)?.join("lock");
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(&path).at("open", &path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            let _ = (&mut file).take(32).read_to_string(&mut text);
            return Err(OpsError::Busy { source_name: source.clone(), pid: text.trim().parse().ok() });
        }
        // Who holds it, for the other one's message; the lock itself is what counts.
        // A disk too full for it stops nothing.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(SourceLock { _file: file })
    }
}

/// Waits for a lock that is only ever held for a moment. Released when dropped.
fn wait_for(path: &Path) -> Result<File, PathError> {
    let file = File::options().write(true).create(true).truncate(false).open(path).at("open", path)?;
    flock(&file, FlockOperation::LockExclusive).map_err(std::io::Error::from).at("lock", path)?;
    Ok(file)
}

/// Held while a source is being backed up, or a keeper is at work. Released when dropped, or when the process dies.
pub struct SourceLock {
    _file: File,
}

/// Reads remembered facts. Damaged ones are as good as none: they are only a cache, and a person
/// told of a damaged cache could do nothing but delete it.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, PathError> {
    let bytes = disk::read_small(path, SMALL)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}
