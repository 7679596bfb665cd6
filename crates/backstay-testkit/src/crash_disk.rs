//! A disk that is stopped before any chosen operation, and then loses what was not synced.
//!
//! It works on a real folder, because SQLite has to open the files there. The live image is what the
//! folder holds; the durable image is kept beside it as what would have to be taken back: per file the
//! bytes of its last sync and the writes since, per folder the changes of names since its last
//! `sync_dir`. `power_cut` takes them back: all of them, none, or some by chance, each change of a
//! name and each write on its own, the way an operating system may order them. A rename is one change.
//!
//! What others write there (SQLite, a store) counts as durable as it is. A file whose name was taken
//! away or given to another is held by a hard link in a folder of its own below the root, so that the
//! very same file can come back. The write that stops a run is applied by half.
//!
//! Takes one lock, held for one operation.

use crate::effects::{Effects, Stopped};
use backstay_ops::disk::{self, Disk, DiskFile, OsDisk, folder_of};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every stop point of a disk.
pub const STOP_POINTS: [&str; 10] = [
    "disk create",
    "disk write",
    "disk set length",
    "disk sync",
    "disk create folder",
    "disk rename",
    "disk link",
    "disk remove",
    "disk sync folder",
    "disk copy owner",
];

/// What a power cut does with changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerCut {
    /// None of them survives.
    NothingUnsynced,
    /// All of them survive, as after the death of the process alone.
    EverythingUnsynced,
    /// Some survive, by chance from a seed; a write may survive in part.
    SomeUnsynced { seed: u64 },
}

/// The disk. Clones share the folder, its model and the count of effects.
#[derive(Clone)]
pub struct CrashDisk {
    effects: Effects,
    shared: Arc<Shared>,
}

struct Shared {
    held: PathBuf,
    model: Mutex<Model>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.held);
    }
}

type Inode = u64;

#[derive(Default)]
struct Model {
    files: BTreeMap<Inode, Shadow>,
    /// Changes of names since a folder was synced, oldest first.
    names: BTreeMap<PathBuf, Vec<Change>>,
}

/// A file with writes that are not durable: its bytes as of the last sync, and what came since.
#[derive(Default)]
struct Shadow {
    synced: Vec<u8>,
    since: Vec<Write>,
}

enum Write {
    Bytes { at: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Clone)]
enum Change {
    File { name: OsString, inode: Inode },
    Folder { name: OsString },
    Gone { name: OsString, inode: Inode },
    Moved { from: OsString, to: OsString, inode: Inode, replaced: Option<Inode> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(Inode),
    Folder,
}

impl CrashDisk {
    /// A disk below `root`, where everything that is there is durable.
    pub fn new(root: &Path, effects: Effects) -> io::Result<Self> {
        let held = root.join(".crash-disk");
        fs::create_dir(&held)?;
        let model = Mutex::default();
        Ok(Self { effects, shared: Arc::new(Shared { held, model }) })
    }

    /// The same disk for the next process: what the last one left unsynced still is.
    pub fn next_process(&self, effects: Effects) -> Self {
        Self { effects, shared: Arc::clone(&self.shared) }
    }

    /// Whether a power cut now could take anything back.
    pub fn is_all_durable(&self) -> bool {
        let model = self.model();
        model.names.is_empty() && model.files.values().all(|file| file.since.is_empty())
    }

    /// How many changes of names in one folder a power cut now could take back, each on its own.
    pub fn unsynced_names(&self) -> usize {
        self.model().names.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Rewrites the folder to what a power cut leaves of it.
    pub fn power_cut(&self, cut: PowerCut) -> io::Result<()> {
        let mut model = self.model();
        let mut dice = Dice::of(cut);
        for (inode, file) in std::mem::take(&mut model.files) {
            if !file.since.is_empty() {
                let bytes = file.survivor(&mut dice);
                // Written in place, so that every name of the file shows it.
                fs::write(self.held(inode), bytes)?;
            }
        }
        // A folder sorts before what lies in it, so that a lost folder takes its changes with it.
        for (dir, changes) in std::mem::take(&mut model.names) {
            if dir.is_dir() {
                self.cut_names(&dir, &changes, &mut dice)?;
            }
        }
        Ok(())
    }

    fn cut_names(&self, dir: &Path, changes: &[Change], dice: &mut Dice) -> io::Result<()> {
        let touched: BTreeSet<&OsStr> = changes.iter().flat_map(Change::names).collect();
        let mut live = BTreeMap::new();
        for name in touched {
            if let Some(node) = node_at(&dir.join(name))? {
                live.insert(name.to_owned(), node);
            }
        }
        let mut durable = live.clone();
        changes.iter().rev().for_each(|change| change.undo(&mut durable));
        changes.iter().filter(|_| dice.survives()).for_each(|change| change.redo(&mut durable));
        for (name, node) in &live {
            match node {
                _ if durable.get(name) == Some(node) => {}
                Node::File(_) => fs::remove_file(dir.join(name))?,
                Node::Folder => fs::remove_dir_all(dir.join(name))?,
            }
        }
        for (name, node) in &durable {
            match node {
                Node::File(inode) if live.get(name) != Some(node) => fs::hard_link(self.held(*inode), dir.join(name))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.shared.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, inode: Inode) -> PathBuf {
        self.shared.held.join(inode.to_string())
    }

    /// Holds on to the file at a path, so that it can come back under any name.
    fn hold(&self, path: &Path) -> io::Result<Inode> {
        let inode = fs::symlink_metadata(path)?.ino();
        match fs::hard_link(path, self.held(inode)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(inode),
        }
    }

    /// Asks whether the operation may happen. The second value says that the run stops right here.
    fn step(&self, name: &'static str) -> Result<(), (io::Error, bool)> {
        let was_running = self.effects.stopped().is_none();
        self.effects.step(name).map_err(|stopped: Stopped| (io::Error::other(stopped), was_running))
    }

    fn may(&self, name: &'static str) -> io::Result<()> {
        self.step(name).map_err(|(error, _)| error)
    }

    fn changed(&self, path: &Path, change: impl FnOnce(OsString) -> Change) {
        let name = path.file_name().unwrap_or_default().to_owned();
        self.model().names.entry(folder_of(path).to_owned()).or_default().push(change(name));
    }
}

fn node_at(path: &Path) -> io::Result<Option<Node>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => Ok(Some(Node::Folder)),
        Ok(found) => Ok(Some(Node::File(found.ino()))),
    }
}

impl Change {
    fn names(&self) -> Vec<&OsStr> {
        match self {
            Change::File { name, .. } | Change::Folder { name } | Change::Gone { name, .. } => vec![name],
            Change::Moved { from, to, .. } => vec![from, to],
        }
    }

    /// Takes the change back, unless somebody else has used the name since.
    fn undo(&self, names: &mut BTreeMap<OsString, Node>) {
        match self {
            Change::File { name, inode } => drop_name(names, name, Node::File(*inode)),
            Change::Folder { name } => drop_name(names, name, Node::Folder),
            Change::Gone { name, inode } => drop(names.entry(name.clone()).or_insert(Node::File(*inode))),
            Change::Moved { from, to, inode, replaced } => {
                if names.get(to) == Some(&Node::File(*inode)) {
                    match replaced {
                        Some(before) => drop(names.insert(to.clone(), Node::File(*before))),
                        None => drop(names.remove(to)),
                    }
                }
                names.entry(from.clone()).or_insert(Node::File(*inode));
            }
        }
    }

    fn redo(&self, names: &mut BTreeMap<OsString, Node>) {
        match self {
            Change::File { name, inode } => drop(names.insert(name.clone(), Node::File(*inode))),
            Change::Folder { name } => drop(names.insert(name.clone(), Node::Folder)),
            Change::Gone { name, inode } => drop_name(names, name, Node::File(*inode)),
            Change::Moved { from, to, inode, .. } => {
                drop_name(names, from, Node::File(*inode));
                names.insert(to.clone(), Node::File(*inode));
            }
        }
    }
}

fn drop_name(names: &mut BTreeMap<OsString, Node>, name: &OsStr, node: Node) {
    if names.get(name) == Some(&node) {
        names.remove(name);
    }
}

impl Shadow {
    /// The bytes a power cut leaves.
    fn survivor(self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.synced;
        for write in self.since {
            if dice.survives() {
                write.apply(&mut bytes, dice);
            }
        }
        bytes
    }
}

impl Write {
    fn apply(&self, to: &mut Vec<u8>, dice: &mut Dice) {
        match self {
            Write::Length(len) => to.resize(*len as usize, 0),
            Write::Bytes { at, bytes } => {
                let kept = bytes.get(..dice.torn(bytes.len())).unwrap_or_default();
                let (from, until) = (*at as usize, *at as usize + kept.len());
                to.resize(to.len().max(until), 0);
                if let Some(place) = to.get_mut(from..until) {
                    place.copy_from_slice(kept);
                }
            }
        }
    }
}

/// What survives.
enum Dice {
    Always(bool),
    Rolled(u64),
}

impl Dice {
    fn of(cut: PowerCut) -> Self {
        match cut {
            PowerCut::NothingUnsynced => Self::Always(false),
            PowerCut::EverythingUnsynced => Self::Always(true),
            PowerCut::SomeUnsynced { seed } => Self::Rolled(seed),
        }
    }

    fn roll(&mut self) -> Option<u64> {
        let Self::Rolled(state) = self else { return None };
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let hash = blake3::hash(&state.to_le_bytes());
        hash.as_bytes().first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn survives(&mut self) -> bool {
        let rolled = self.roll();
        match (self, rolled) {
            (Self::Always(survives), _) => *survives,
            (_, rolled) => rolled.is_some_and(|number| number.is_multiple_of(2)),
        }
    }

    /// How much of a surviving write there is: all of it, or whole sectors from its beginning.
    fn torn(&mut self, len: usize) -> usize {
        match self.roll() {
            Some(number) if number.is_multiple_of(4) => (number >> 8) as usize % (len / 512 + 1) * 512,
            _ => len,
        }
    }
}

struct CrashFile {
    disk: CrashDisk,
    file: File,
    inode: Inode,
}

impl CrashFile {
    fn wrote(&self, write: Write) {
        self.disk.model().files.entry(self.inode).or_default().since.push(write);
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        self.wrote(Write::Bytes { at, bytes: bytes.to_vec() });
        Ok(())
    }
}

impl DiskFile for CrashFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.disk.step("disk write") {
            Ok(()) => self.write(offset, bytes),
            Err((error, false)) => Err(error),
            Err((error, true)) => {
                let (half, _) = bytes.split_at(bytes.len() / 2);
                self.write(offset, half)?;
                Err(error)
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.may("disk set length")?;
        self.file.set_len(len)?;
        self.wrote(Write::Length(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.may("disk sync")?;
        let mut model = self.disk.model();
        let shadow = model.files.entry(self.inode).or_default();
        for write in std::mem::take(&mut shadow.since) {
            write.apply(&mut shadow.synced, &mut Dice::Always(true));
        }
        Ok(())
    }

    fn give_owner_of(&self, from: &Path) -> io::Result<()> {
        self.disk.may("disk copy owner")?;
        disk::give_owner(&self.file, from)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        disk::is_at(&self.file, path)
    }

    fn lock(&self) -> io::Result<()> {
        self.file.lock()
    }
}

impl Disk for CrashDisk {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        self.may("disk create")?;
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        let inode = self.hold(path)?;
        self.changed(path, |name| Change::File { name, inode });
        Ok(Box::new(CrashFile { disk: self.clone(), file, inode }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.may("disk create folder")?;
        let was_there = path.is_dir();
        OsDisk.create_dir(path)?;
        if !was_there {
            self.changed(path, |name| Change::Folder { name });
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.may("disk rename")?;
        if folder_of(from) != folder_of(to) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a rename out of its folder is not modelled"));
        }
        let inode = self.hold(from)?;
        let replaced = if to.symlink_metadata().is_ok() { Some(self.hold(to)?) } else { None };
        fs::rename(from, to)?;
        let to = to.file_name().unwrap_or_default().to_owned();
        self.changed(from, |from| Change::Moved { from, to, inode, replaced });
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.may("disk link")?;
        let inode = self.hold(from)?;
        fs::hard_link(from, to)?;
        self.changed(to, |name| Change::File { name, inode });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.may("disk remove")?;
        let inode = self.hold(path)?;
        fs::remove_file(path)?;
        self.changed(path, |name| Change::Gone { name, inode });
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.may("disk sync folder")?;
        if !path.is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.model().names.remove(path);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
