//! Hears when databases are written to, instead of asking again and again.
//!
//! Owns one inotify descriptor with a watch on each folder that has a followed database in it, not on the files:
//! what replaces a file, or makes its log anew, is heard as well, and a thousand databases of one folder are one
//! watch. Where the system offers none of it (a network file system, no watches left) nothing is heard, and
//! whoever waits looks at a slow pace anyway.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// What is written beside a database when something is committed or copied back.
const SUFFIXES: [&str; 3] = ["", "-wal", "-journal"];
const BUFFER: usize = 16 << 10;

/// Which of the watched were written to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    pub members: BTreeSet<usize>,
    /// So much was written that some of it was not told.
    pub everything: bool,
}

pub struct Watch {
    fd: AsyncFd<OwnedFd>,
    folders: HashMap<i32, PathBuf>,
    names: HashMap<PathBuf, HashMap<OsString, usize>>,
}

impl Watch {
    /// Only within the runtime.
    pub fn begin() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "an `OwnedFd` stays open, and the same, as long as it is registered")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, folders: HashMap::new(), names: HashMap::new() })
    }

    /// Hears of a database from now on, by the name it was given and by the one that leads to.
    pub fn add(&mut self, path: &Path, member: usize) -> io::Result<()> {
        self.add_name(path, member)?;
        match std::fs::canonicalize(path) {
            Ok(real) if real != path => self.add_name(&real, member),
            _ => Ok(()),
        }
    }

    fn add_name(&mut self, path: &Path, member: usize) -> io::Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let folder = crate::disk::folder_of(path).to_owned();
        if !self.names.contains_key(&folder) {
            let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
            let number = inotify::add_watch(self.fd.get_ref(), &folder, changes | WatchFlags::ONLYDIR)?;
            self.folders.insert(number, folder.clone());
        }
        let names = self.names.entry(folder).or_default();
        for suffix in SUFFIXES {
            let mut name = name.to_owned();
            name.push(suffix);
            names.insert(name, member);
        }
        Ok(())
    }

    /// Waits until something is written.
    pub async fn next(&self) -> io::Result<Heard> {
        loop {
            let mut ready = self.fd.readable().await?;
            let heard = self.read()?;
            ready.clear_ready();
            if heard != Heard::default() {
                return Ok(heard);
            }
        }
    }

    fn read(&self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    heard.everything |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    let Some(folder) = self.folders.get(&event.wd()) else { continue };
                    let Some(name) = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes())) else { continue };
                    heard.members.extend(self.names.get(folder).and_then(|names| names.get(name)));
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(heard),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_to_a_log_and_a_file_put_in_its_place_are_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one.db"), folder.path().join("two.db"));
        std::fs::write(&one, "1").expect("written");
        std::fs::write(&two, "2").expect("written");
        let mut watch = Watch::begin().expect("a watch");
        watch.add(&one, 7).expect("added");
        watch.add(&two, 8).expect("added");
        std::fs::write(folder.path().join("one.db-wal"), "frames").expect("written");
        assert_eq!(watch.next().await.expect("heard").members, BTreeSet::from([7]));
        std::fs::write(folder.path().join("three.db"), "3").expect("written");
        std::fs::rename(folder.path().join("three.db"), &two).expect("renamed");
        assert_eq!(watch.next().await.expect("heard").members, BTreeSet::from([8]));
    }
}
