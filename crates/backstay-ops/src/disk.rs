//! The disk seam: everything ops changes on a local disk goes through here, so that a test can stop
//! the program at each step and see what a power cut would leave.
//!
//! A file counts as there only when its bytes were synced, then its name, in that order. `replace`
//! is the one recipe for small files; larger ones follow it by hand.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file being written.
pub trait DiskFile: Send + Sync {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The same, and has the room for it set aside in one piece where the file system can: what is written in any
    /// order lies in order, and a disk that is too full says so at once.
    fn reserve(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
    fn sync(&self) -> io::Result<()>;
    /// Gives it the owner and the permissions of another, durably: a restored database that only we may
    /// open after a power cut would be no use to its program. The other is looked at by name and not
    /// followed; this one is changed through what we hold open, whatever its name leads to by now.
    fn give_owner_of(&self, from: &Path) -> io::Result<()>;
    /// Whether the name leads to this very file, and not by a symbolic link.
    fn is_at(&self, path: &Path) -> io::Result<bool>;
    /// Holds the file for as long as this value lives, so that nobody takes it for a leftover.
    fn lock(&self) -> io::Result<()>;
}

/// The few ways ops changes a disk.
pub trait Disk: Send + Sync {
    /// Creates a file that must not exist yet.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>>;
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; fails when that name is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The machine's own disk.
pub struct OsDisk;

struct OsFile(File);

impl DiskFile for OsFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn reserve(&self, len: u64) -> io::Result<()> {
        use rustix::io::Errno;
        self.set_len(len)?;
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            // Not every file system can, and none needs to.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => Ok(()),
            other => Ok(other?),
        }
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
    fn give_owner_of(&self, from: &Path) -> io::Result<()> {
        give_owner(&self.0, from)
    }
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        is_at(&self.0, path)
    }
    fn lock(&self) -> io::Result<()> {
        self.0.lock()
    }
}

/// The part of `DiskFile::give_owner_of` that works on an open file.
pub fn give_owner(file: &File, from: &Path) -> io::Result<()> {
    let (wanted, now) = (from.symlink_metadata()?, file.metadata()?);
    if !wanted.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if (wanted.uid(), wanted.gid()) != (now.uid(), now.gid()) {
        std::os::unix::fs::fchown(file, Some(wanted.uid()), Some(wanted.gid()))?;
    }
    // Who may read and write, and nothing else: a database is never run in somebody's name.
    file.set_permissions(std::fs::Permissions::from_mode(wanted.mode() & 0o777))?;
    file.sync_all()
}

/// The part of `DiskFile::is_at` that works on an open file.
pub fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match path.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|found| (found.dev(), found.ino()) == (held.dev(), held.ino())),
    }
}

impl Disk for OsDisk {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        Ok(Box::new(OsFile(file)))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match std::fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// A failure on the local disk: what was being done, and to which path.
#[derive(Debug, thiserror::Error)]
#[error("{op} {}", path.display())]
pub struct PathError {
    pub op: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// Adds the bare verb phrase and the path where both are known.
pub trait At<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, PathError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, PathError> {
        self.map_err(|source| PathError { op, path: path.to_owned(), source })
    }
}

/// The folder a file lies in; the working directory for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Writes a small file whole: a new one beside it, synced, renamed over it, the folder synced. A
/// crash leaves the old file or the new one, and a staged one that `sweep_staged` removes.
///
/// The staged name is this call's own: one that two processes shared could be renamed half written.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8], mode: u32) -> Result<(), PathError> {
    put_in_place(disk, path, (bytes, mode), Durable::Yes)?;
    disk.sync_dir(folder_of(path)).at("sync folder of", path)
}

/// The same for what is worth nothing after a power cut: whoever reads it sees the old file or the new one.
pub fn replace_unsynced(disk: &dyn Disk, path: &Path, bytes: &[u8], mode: u32) -> Result<(), PathError> {
    put_in_place(disk, path, (bytes, mode), Durable::No)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Yes,
    No,
}

fn put_in_place(disk: &dyn Disk, path: &Path, (bytes, mode): (&[u8], u32), durable: Durable) -> Result<(), PathError> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("{STAGED}-{}-{call}", std::process::id()));
    let staged = path.with_file_name(name);
    let file = create_anew(disk, &staged, mode)?;
    let synced = |()| if durable == Durable::Yes { file.sync().at("sync", &staged) } else { Ok(()) };
    let written = file.write_at(0, bytes).at("write", &staged).and_then(synced);
    let named = written.and_then(|()| disk.rename(&staged, path).at("rename", &staged));
    if named.is_err() {
        let _ = disk.remove(&staged);
    }
    named
}

/// What `replace` puts behind the name of a file it has not finished.
const STAGED: &str = ".new";

/// A process that died may have had our number, and left a file under it.
fn create_anew(disk: &dyn Disk, path: &Path, mode: u32) -> Result<Box<dyn DiskFile>, PathError> {
    match disk.create(path, mode) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(path).at("remove", path)?;
            disk.create(path, mode).at("create", path)
        }
        other => other.at("create", path),
    }
}

/// Removes what unfinished replacements of a file left. The caller holds the lock under which alone the
/// file is replaced, so none of them is still being made; what cannot be removed is only space.
pub fn sweep_staged(disk: &dyn Disk, path: &Path) {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(STAGED);
    for entry in std::fs::read_dir(folder_of(path)).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            let _ = disk.remove(&entry.path());
        }
    }
}

/// Makes a folder and those above it that are missing, each name synced into its parent.
pub fn create_dirs(disk: &dyn Disk, path: &Path) -> Result<(), PathError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = folder_of(path);
    if parent != path {
        create_dirs(disk, parent)?;
    }
    disk.create_dir(path).at("create folder", path)?;
    disk.sync_dir(parent).at("sync folder", parent)
}

/// Reads a file that ought to be small; one that is not is an error, not an allocation.
pub fn read_small(path: &Path, most: u64) -> Result<Option<Vec<u8>>, PathError> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.at("open", path)?,
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is far too long")).at("read", path);
    }
    Ok(Some(bytes))
}

/// Bytes free for this user where `path` lies.
pub fn free_bytes(path: &Path) -> Result<u64, PathError> {
    let stat = rustix::fs::statvfs(path).map_err(io::Error::from).at("ask for free space at", path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
