//! Listing a folder in byte order of the whole key, page by page.
//!
//! Reads only directories that can hold a key of the page: it starts at the deepest one the prefix
//! names and leaves out those that lie wholly before `after`. A directory counts as `name/` when
//! its entries are sorted, because that is how it begins the keys below it (`a-b` is before `a/b`).
//!
//! What other programs leave in a folder (`.DS_Store`, `@eaDir`, a link, a pipe) is no object and is left
//! out: it must not stop a backup. `foreign` finds it for a person to look at. A link on the way to the
//! folder a prefix names is still refused: what lies behind it is not absent.

use super::tree::{self, Child, Root};
use crate::error::StoreError;
use crate::seam::{Entry, KEY_BYTES_MAX, Key, Page, Verb, is_segment};
use std::io;
use std::os::fd::OwnedFd;

/// Any failure of a listing; the newtype lets a lost task's error become one too.
pub(super) struct Failed(pub(super) StoreError);

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        failed("", error)
    }
}

fn failed(path: &str, error: io::Error) -> Failed {
    Failed(StoreError::of_io(Verb::List.word(), path, error))
}

pub(super) fn list(root: &Root, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, Failed> {
    let folder_len = prefix.rfind('/').map_or(0, |at| at + 1);
    let folder = prefix.get(..folder_len).unwrap_or_default();
    let Some(dir) = open_folder(root, folder)? else { return Ok(Page::default()) };
    let mut walk =
        Walk { prefix, after: after.map(Key::as_str), limit: limit.max(1), entries: Vec::new(), more: false };
    walk.folder(&dir, folder)?;
    let next = if walk.more { walk.entries.last().map(|entry| entry.key.clone()) } else { None };
    Ok(Page { entries: walk.entries, next })
}

/// The directory a prefix ends in (`""` or `a/b/`); `None` when no key can begin so.
fn open_folder(root: &Root, folder: &str) -> Result<Option<OwnedFd>, Failed> {
    let mut dir = root.dir()?;
    let Some(folder) = folder.strip_suffix('/') else { return Ok(Some(dir)) };
    if folder.len() > KEY_BYTES_MAX || !folder.split('/').all(is_segment) {
        return Ok(None);
    }
    for segment in folder.split('/') {
        dir = match tree::enter(&dir, segment) {
            Ok(inner) => inner,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(folder, error)),
        };
    }
    Ok(Some(dir))
}

struct Walk<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    entries: Vec<Entry>,
    /// There is at least one more key after the page.
    more: bool,
}

impl Walk<'_> {
    /// Adds the keys below `path` (`""` or `a/b/`). Depth is bounded by the longest key.
    fn folder(&mut self, dir: &OwnedFd, path: &str) -> Result<(), Failed> {
        for name in self.names(dir, path)? {
            let full = format!("{path}{name}");
            match name.strip_suffix('/') {
                Some(_) if self.wholly_before(&full) => {}
                Some(name) => match tree::enter(dir, name) {
                    Ok(inner) => self.folder(&inner, &full)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(&full, error)),
                },
                None => self.file(dir, &name, &full)?,
            }
            if self.more {
                break;
            }
        }
        Ok(())
    }

    fn file(&mut self, dir: &OwnedFd, name: &str, full: &str) -> Result<(), Failed> {
        if self.after.is_some_and(|after| full <= after) {
            return Ok(());
        }
        if self.entries.len() == self.limit {
            self.more = true;
            return Ok(());
        }
        match tree::file_facts(dir, name) {
            Ok((len, modified)) => self.entries.push(Entry { key: Key::parse(full).map_err(Failed)?, len, modified }),
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(full, error)),
        }
        Ok(())
    }

    fn wholly_before(&self, folder: &str) -> bool {
        self.after.is_some_and(|after| folder <= after && !after.starts_with(folder))
    }

    /// The names that matter for the prefix, sorted, those of directories with their slash.
    fn names(&self, dir: &OwnedFd, path: &str) -> Result<Vec<String>, Failed> {
        let wanted = self.prefix.get(path.len()..).unwrap_or_default();
        let mut names = Vec::new();
        for (name, kind) in tree::children(dir).map_err(|e| failed(path, e))? {
            if !name.starts_with(wanted.as_bytes()) {
                continue;
            }
            let Some(text) = legal(path, &name) else { continue };
            match kind {
                Child::File => names.push(text.to_owned()),
                Child::Folder => names.push(format!("{text}/")),
                Child::Link | Child::Other => {}
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// The name as a part of a key, if it can be one.
fn legal<'n>(path: &str, name: &'n [u8]) -> Option<&'n str> {
    let text = std::str::from_utf8(name).ok()?;
    (is_segment(text) && path.len() + text.len() <= KEY_BYTES_MAX).then_some(text)
}

/// How many foreign names are told; a person needs to see what sort of thing they are.
const FOREIGN_MAX: usize = 100;

/// The names in the whole store that no listing shows, but for unfinished puts; not more than some.
pub(super) fn foreign(root: &Root) -> Result<Vec<String>, Failed> {
    let mut found = Vec::new();
    foreign_below(&root.dir()?, "", &mut found)?;
    found.sort_unstable();
    Ok(found)
}

fn foreign_below(dir: &OwnedFd, path: &str, found: &mut Vec<String>) -> Result<(), Failed> {
    for (name, kind) in tree::children(dir).map_err(|e| failed(path, e))? {
        if found.len() >= FOREIGN_MAX {
            break;
        }
        let full = format!("{path}{}", String::from_utf8_lossy(&name));
        match (legal(path, &name), kind) {
            (Some(_), Child::File) => {}
            (Some(text), Child::Folder) => match tree::enter(dir, text) {
                Ok(inner) => foreign_below(&inner, &format!("{full}/"), found)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => found.push(full),
            },
            (None, Child::File) if std::str::from_utf8(&name).is_ok_and(tree::is_staging) => {}
            _ => found.push(full),
        }
    }
    Ok(())
}
