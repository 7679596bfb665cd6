//! Hears when databases are written to, instead of asking again and again.
//!
//! Owns one inotify descriptor with a watch on each folder that has a followed database in it, not on the files:
//! what replaces a file, or makes its log anew, is heard as well, and a thousand databases of one folder are one
//! watch. Where the system offers none of it (a network file system, no watches left) nothing is heard, and
//! whoever waits looks at a slow pace anyway.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// What is written beside a database when something is committed or copied back.
const SUFFIXES: [&str; 3] = ["", "-wal", "-journal"];
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
const BUFFER: usize = 16 << 10;

/// Who is told of a name.
type Notes = Vec<Arc<Notify>>;

#[derive(Default)]
struct Folders {
    numbers: HashMap<i32, PathBuf>,
    names: HashMap<PathBuf, HashMap<OsString, Notes>>,
    /// The databases of a folder, and whether each is hushed.
    hushed: HashMap<PathBuf, HashMap<OsString, bool>>,
    /// Who is told of files that appear.
    newcomers: HashMap<PathBuf, Notes>,
}

pub struct Watch {
    fd: AsyncFd<OwnedFd>,
    folders: Mutex<Folders>,
}

impl Watch {
    /// Only within the runtime.
    pub fn begin() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "an `OwnedFd` stays open, and the same, as long as it is registered")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, folders: Mutex::default() })
    }

    fn folders(&self) -> MutexGuard<'_, Folders> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a database from now on, by the name it was given and by the one that leads to.
    pub fn add(&self, path: &Path, note: &Arc<Notify>) -> io::Result<()> {
        self.add_name(path, note)?;
        match std::fs::canonicalize(path) {
            Ok(real) if real != path => self.add_name(&real, note),
            _ => Ok(()),
        }
    }

    fn add_name(&self, path: &Path, note: &Arc<Notify>) -> io::Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let folder = crate::disk::folder_of(path);
        let mut folders = self.folders();
        folders.hushed.entry(folder.to_owned()).or_default().insert(name.to_owned(), false);
        self.listen(&mut folders, folder)?;
        let names = folders.names.entry(folder.to_owned()).or_default();
        for suffix in SUFFIXES {
            let mut name = name.to_owned();
            name.push(suffix);
            let notes = names.entry(name).or_default();
            if !notes.iter().any(|known| Arc::ptr_eq(known, note)) {
                notes.push(note.clone());
            }
        }
        Ok(())
    }

    /// Tells of files that appear in a folder, other than what SQLite puts beside a database.
    pub fn add_folder(&self, folder: &Path, note: &Arc<Notify>) -> io::Result<()> {
        let mut folders = self.folders();
        self.listen(&mut folders, folder)?;
        folders.newcomers.entry(folder.to_owned()).or_default().push(note.clone());
        Ok(())
    }

    /// Does not tell of what is written to a database any more, or does again. What takes its place is told of all the
    /// same. A folder is one watch: each write in it costs whoever makes it until all its databases are hushed.
    pub fn hush(&self, path: &Path, is_hushed: bool) -> io::Result<()> {
        self.hush_name(path, is_hushed)?;
        match std::fs::canonicalize(path) {
            Ok(real) if real != path => self.hush_name(&real, is_hushed),
            _ => Ok(()),
        }
    }

    fn hush_name(&self, path: &Path, is_hushed: bool) -> io::Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let folder = crate::disk::folder_of(path);
        let mut folders = self.folders();
        match folders.hushed.get_mut(folder).and_then(|names| names.get_mut(name)) {
            Some(known) => *known = is_hushed,
            None => return Ok(()),
        }
        self.listen(&mut folders, folder)
    }

    /// Makes the watch of a folder what it should be.
    fn listen(&self, folders: &mut Folders, folder: &Path) -> io::Result<()> {
        let databases = folders.hushed.get(folder);
        let all_hushed = databases.is_some_and(|all| !all.is_empty() && all.values().all(|hushed| *hushed));
        let places = WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        let changes = if all_hushed { places } else { places | WatchFlags::MODIFY };
        // The same folder again is the same watch, with what is asked for now.
        let number = inotify::add_watch(self.fd.get_ref(), folder, changes)?;
        folders.numbers.insert(number, folder.to_owned());
        folders.names.entry(folder.to_owned()).or_default();
        Ok(())
    }

    /// Waits until something is written, and tells whom it concerns; everybody, when so much was written that some of
    /// it was not heard.
    pub async fn tell_next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let told = self.tell()?;
            ready.clear_ready();
            if told {
                return Ok(());
            }
        }
    }

    fn tell(&self) -> io::Result<bool> {
        let mut told = false;
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
        let folders = self.folders();
        let tell = |notes: &Notes| notes.iter().for_each(|note| note.notify_one());
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    folders.names.values().flat_map(HashMap::values).for_each(tell);
                    told = true;
                }
                Ok(event) => {
                    let Some(folder) = folders.numbers.get(&event.wd()) else { continue };
                    let Some(name) = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes())) else { continue };
                    let notes = folders.names.get(folder).and_then(|names| names.get(name));
                    let appeared = event.events().intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
                    let is_new = appeared && !BESIDE.iter().any(|suffix| name.as_bytes().ends_with(suffix.as_bytes()));
                    let newcomers = folders.newcomers.get(folder).filter(|_| is_new);
                    told |= notes.is_some() || newcomers.is_some();
                    [notes, newcomers].into_iter().flatten().for_each(tell);
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(told),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    #[tokio::test]
    async fn writes_to_a_log_and_a_file_put_in_its_place_are_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one.db"), folder.path().join("two.db"));
        std::fs::write(&one, "1").expect("written");
        std::fs::write(&two, "2").expect("written");
        let watch = Watch::begin().expect("a watch");
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        watch.add(&one, &first).expect("added");
        watch.add(&two, &second).expect("added");
        let is_told = |note: &Arc<Notify>| futures::FutureExt::now_or_never(note.notified()).is_some();
        std::fs::write(folder.path().join("one.db-wal"), "frames").expect("written");
        watch.tell_next().await.expect("heard");
        assert!(is_told(&first) && !is_told(&second));
        std::fs::write(folder.path().join("three.db"), "3").expect("written");
        std::fs::rename(folder.path().join("three.db"), &two).expect("renamed");
        watch.tell_next().await.expect("heard");
        assert!(!is_told(&first) && is_told(&second));
    }

    #[tokio::test]
    async fn what_is_written_to_hushed_databases_is_not_heard_until_it_is_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one.db"), folder.path().join("two.db"));
        let log = folder.path().join("one.db-wal");
        [&one, &two, &log].iter().for_each(|path| std::fs::write(path, "1").expect("written"));
        let watch = Watch::begin().expect("a watch");
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        watch.add(&one, &first).expect("added");
        watch.add(&two, &second).expect("added");
        let write =
            || File::options().append(true).open(&log).and_then(|mut log| log.write_all(b"x")).expect("written");
        let is_told = |note: &Arc<Notify>| {
            watch.tell().expect("asked");
            futures::FutureExt::now_or_never(note.notified()).is_some()
        };
        watch.hush(&one, true).expect("hushed");
        write();
        assert!(is_told(&first), "the other one of the folder is listened for");
        watch.hush(&two, true).expect("hushed");
        write();
        assert!(!is_told(&first));
        std::fs::write(folder.path().join("three.db"), "3").expect("written");
        std::fs::rename(folder.path().join("three.db"), &two).expect("renamed");
        assert!(is_told(&second), "what takes its place");
        watch.hush(&one, false).expect("heard");
        write();
        assert!(is_told(&first));
        watch.hush(&one, true).expect("hushed");
        watch.add(&two, &second).expect("added once more");
        write();
        assert!(is_told(&first), "who comes is listened for");
    }
}
