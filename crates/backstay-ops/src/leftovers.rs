//! Private copies: files that hold what a snapshot holds, in plain, under names of our own.
//!
//! Owns their names and who may remove them. A private file is locked (`flock`) for as long as it is
//! in use, and the lock ends with the process, in whatever container it ran: a private file that nobody
//! holds is a leftover of a crash. Nothing is removed but regular files with exactly our names, never
//! what a symbolic link leads to, and no file is opened that may be somebody's database by now: to
//! close it would end the locks SQLite holds on it in this process.

use crate::disk::{At, Disk, DiskFile, PathError};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Digits of the number that makes a private name this run's own.
const TAG: usize = 8;
/// Digits of a snapshot's number.
const ID: usize = 32;
/// What may follow the name of a staged file.
const SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];
/// How often a sweep may be quicker than we are.
const ATTEMPTS: u32 = 16;

/// The private copy a proof questions.
pub fn proof_name(tag: &str, snapshot: &backstay_model::ObjectId) -> String {
    format!("proof-{tag}-{snapshot}.db")
}

/// The file that becomes `name` when it is whole.
pub fn staged_name(name: &str, tag: &str) -> String {
    format!(".{name}.backstay-{tag}")
}

/// Creates a private file and holds it. Where a file system knows no locks it is not held, and never
/// swept either.
pub fn create(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskFile>, PathError> {
    for _ in 0..ATTEMPTS {
        let file = disk.create(path, 0o600).at("create", path)?;
        while file.lock().is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {}
        // A sweep may have seen it before it was held.
        if file.is_at(path).at("look at", path)? {
            return Ok(file);
        }
    }
    Err(io::Error::other("it was taken away again and again")).at("create", path)
}

/// Removes the leftovers in a folder. What cannot be removed is only space.
pub fn sweep(disk: &dyn Disk, folder: &Path) {
    for (path, _held) in of_folder(folder) {
        let _ = disk.remove(&path);
    }
}

/// Bytes that `sweep` would give back.
pub fn bytes(folder: &Path) -> u64 {
    of_folder(folder).filter_map(|(path, held)| held.and(path.symlink_metadata().ok())).map(|m| m.blocks() * 512).sum()
}

/// The leftovers, each held while it is looked at unless it is only a second name.
fn of_folder(folder: &Path) -> impl Iterator<Item = (PathBuf, Option<File>)> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
        let path = entry.path();
        let becomes = becomes(entry.file_name().to_str()?)?;
        let found = path.symlink_metadata().ok().filter(|found| found.is_file())?;
        if found.nlink() > 1 {
            // It got its name, and ours was not yet taken away.
            let finished = path.with_file_name(becomes?).symlink_metadata().ok()?;
            let is_same = (finished.dev(), finished.ino()) == (found.dev(), found.ino());
            return is_same.then_some((path, None));
        }
        held(&path, (found.dev(), found.ino())).map(|file| (path, Some(file)))
    })
}

/// The file, if nobody holds it and the name still leads to it.
fn held(path: &Path, seen: (u64, u64)) -> Option<File> {
    // Neither followed nor waited for: the name may lead elsewhere since it was looked at.
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.try_lock().ok()?;
    let found = file.metadata().ok()?;
    let is_left = (found.dev(), found.ino()) == seen && found.nlink() == 1 && crate::disk::is_at(&file, path).ok()?;
    is_left.then_some(file)
}

/// `Some` for a private name, with the name the file was to get if it was to get one.
fn becomes(name: &str) -> Option<Option<String>> {
    if let Some((tag, id)) = name.strip_prefix("proof-").and_then(|n| n.strip_suffix(".db")?.split_once('-')) {
        return (is_hex(tag, TAG) && is_hex(id, ID)).then_some(None);
    }
    let suffix = SUFFIXES.into_iter().find(|suffix| name.ends_with(suffix)).unwrap_or_default();
    let (stem, tag) = name.strip_prefix('.')?.strip_suffix(suffix)?.rsplit_once(".backstay-")?;
    (!stem.is_empty() && is_hex(tag, TAG)).then(|| Some(format!("{stem}{suffix}")))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exactly_our_names_are_private() {
        let id = "0123456789abcdef0123456789abcdef";
        let yes = [format!("proof-0a1b2c3d-{id}.db"), ".shop.db.backstay-0a1b2c3d-wal".into()];
        assert_eq!(yes.map(|name| becomes(&name)), [Some(None), Some(Some("shop.db-wal".into()))]);
        let no = [
            format!("proof-17-{id}.db"),
            format!("proof-0a1b2c3d-{id}.db.txt"),
            format!("proof-0a1b2c3d-{}.db", &id[1..]),
            "shop.db.backstay-0a1b2c3d".into(),
            ".shop.db.backstay-0A1B2C3D".into(),
            ".shop.db.backstay-0a1b2c3d-notes".into(),
            "..backstay-0a1b2c3".into(),
            "..backstay-0a1b2c3d".into(),
        ];
        assert_eq!(no.each_ref().map(|name| becomes(name)), [const { None }; 8]);
    }
}
