//! Going through a folder without following links: every step is relative to an open directory.

use crate::seam::{KEY_BYTES_MAX, is_segment};
use backstay_model::Moment;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The folder of a store, and how to recognise it.
pub(super) struct Root {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let meta = path.metadata()?;
        if !meta.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { device: meta.dev(), inode: meta.ino(), path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself, if it is still the one that was opened.
    pub(super) fn dir(&self) -> io::Result<OwnedFd> {
        // A vanished folder must not read as an absent object, so that error loses its kind.
        let gone = |cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => io::Error::other("the store's folder is gone"),
            _ => cause,
        };
        let dir = File::open(&self.path).map_err(gone)?;
        let meta = dir.metadata()?;
        if (meta.dev(), meta.ino()) != (self.device, self.inode) {
            return Err(io::Error::other("the store's folder has been replaced by another since it was opened"));
        }
        Ok(dir.into())
    }

    /// The directory a key lies in, open, and the key's last segment.
    pub(super) fn dir_of<'k>(&self, key: &'k str) -> io::Result<(OwnedFd, &'k str)> {
        refuse_illegal(key)?;
        let mut dir = self.dir()?;
        let mut segments = key.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segments.peek().is_none() {
                return Ok((dir, segment));
            }
            dir = enter(&dir, segment)?;
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    File,
    Folder,
    Link,
    Other,
}

impl From<FileType> for Child {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Folder,
            FileType::Symlink => Self::Link,
            _ => Self::Other,
        }
    }
}

/// Makes the folder and its parents for the owner alone, and makes their entries durable.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    for made in missing {
        sync_parent(made)?;
    }
    // Whoever made an empty folder before may have been stopped before syncing it.
    sync_parent(&path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match File::open(parent) {
        Ok(dir) => dir.sync_all(),
        // A parent that may be passed through but not read held the folder before us.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn refused(name: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{name:?} {why}"))
}

/// The last fence: whatever made the key, it does not lead out of the folder.
pub(super) fn refuse_illegal(key: &str) -> io::Result<()> {
    let legal = key.split('/').all(is_segment);
    if legal { Ok(()) } else { Err(refused(key, "is not a legal key")) }
}

pub(super) fn link_refused(name: &str) -> io::Error {
    refused(name, "is a symbolic link, which is not followed inside a store")
}

/// Opens a directory inside another.
pub(super) fn enter(dir: &impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(fd),
        // A link is reported as one or the other, by flag order and system.
        Err(Errno::NOTDIR | Errno::LOOP) if kind_of(dir, name)? == Some(Child::Link) => Err(link_refused(name)),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory inside another, making it for the owner alone when it is missing.
pub(super) fn enter_or_make(dir: &impl AsFd, name: &str) -> io::Result<(OwnedFd, bool)> {
    match enter(dir, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            Ok((enter(dir, name)?, true))
        }
        found => Ok((found?, false)),
    }
}

fn stat(dir: &impl AsFd, name: &str) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn kind_of(dir: &impl AsFd, name: &str) -> io::Result<Option<Child>> {
    Ok(stat(dir, name)?.map(|stat| FileType::from_raw_mode(stat.st_mode).into()))
}

/// The length of a file and when it was written; a directory is no object, so it is not found.
pub(super) fn file_facts(dir: &impl AsFd, name: &str) -> io::Result<(u64, Moment)> {
    let stat = stat(dir, name)?.ok_or(io::ErrorKind::NotFound)?;
    match FileType::from_raw_mode(stat.st_mode).into() {
        Child::File => {
            let millis = stat
                .st_mtime
                .saturating_mul(1000)
                .saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0) / 1_000_000);
            let written =
                Moment::from_millis(millis).ok_or_else(|| refused(name, "has a time that cannot be written"))?;
            Ok((u64::try_from(stat.st_size).map_err(io::Error::other)?, written))
        }
        Child::Folder => Err(io::ErrorKind::NotFound.into()),
        Child::Link => Err(link_refused(name)),
        Child::Other => Err(refused(name, "is not a file")),
    }
}

/// Opens a file for reading. Never waits for the other end of a pipe somebody put there.
pub(super) fn open_file(dir: &impl AsFd, name: &str) -> io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::LOOP) => return Err(link_refused(name)),
        Err(error) => return Err(error.into()),
    };
    let file = File::from(fd);
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if !meta.is_file() {
        return Err(refused(name, "is not a file"));
    }
    Ok((file, meta.len()))
}

/// Puts a whole file under a free name, durable in a directory that is: staged beside it, synced, and linked to its name. False
/// where somebody has the name. By the open directory alone: a folder that is moved away in the meantime takes the file along,
/// and none is made in its place.
pub(super) fn put_new(dir: &impl AsFd, name: &str, bytes: &[u8]) -> io::Result<bool> {
    let (mut file, staged) = stage(dir, name)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match rustix::fs::linkat(dir, &staged, dir, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    });
    // What stays is swept up one day.
    let _ = unlink(dir, &staged);
    if linked? {
        rustix::fs::fsync(dir)?;
        return Ok(true);
    }
    Ok(false)
}

/// A new file beside a name.
fn stage(dir: &impl AsFd, name: &str) -> io::Result<(File, String)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut number = 1u64;
    loop {
        let staged = format!("{name}#{number}");
        match rustix::fs::openat(dir, &staged, flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => return Ok((fd.into(), staged)),
            Err(Errno::EXIST) => number += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn unlink(dir: &impl AsFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The names in a directory, in no order, without `.` and `..`.
pub(super) fn children(dir: &impl AsFd) -> io::Result<Vec<(Vec<u8>, Child)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            // Some file systems do not say; then the file itself is asked.
            FileType::Unknown => match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
            kind => kind,
        };
        found.push((name.to_bytes().to_vec(), kind.into()));
    }
    Ok(found)
}

/// Whether this name was made for a put: the object's name, `#`, a number.
pub(super) fn is_staging(name: &str) -> bool {
    name.split_once('#').is_some_and(|(object, number)| {
        is_segment(object) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// How deep the directories of legal keys can lie.
pub(super) const DEPTH_MAX: usize = KEY_BYTES_MAX / 2;

/// Removes staged files last written before `before` (seconds since the epoch), in this folder and
/// at most `depth` below.
pub(super) fn sweep(dir: &OwnedFd, before: i64, depth: usize) -> io::Result<u64> {
    let mut removed = 0;
    for (name, kind) in children(dir)? {
        let Ok(name) = std::str::from_utf8(&name) else { continue };
        match kind {
            Child::Folder if depth > 0 && is_segment(name) => match enter(dir, name) {
                Ok(inner) => removed += sweep(&inner, before, depth - 1)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
            Child::File if is_staging(name) && stat(dir, name)?.is_some_and(|stat| stat.st_mtime < before) => {
                unlink(dir, name)?;
                removed += 1;
            }
            _ => {}
        }
    }
    Ok(removed)
}
