//! Images of pages on their way from the log to the repository: in memory while they are few, in an
//! unlinked file beyond that. Nothing remains of it, whatever ends the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Above this the images go to a file. More than a log is allowed to have before it is copied back: who is late once must not
/// be slower for it.
const MEMORY_MAX: usize = 48 << 20;
/// Images lie in pieces of this length in memory: none is ever moved, and every page size is a part of it.
const CHUNK: usize = 256 << 10;
/// So many are kept for what is read next: beside a busy writer new memory costs more than what is copied into it.
const SPARE_MAX: usize = 64;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn spare() -> MutexGuard<'static, Vec<Vec<u8>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives up what is kept for the next.
pub(crate) fn give_back() {
    *spare() = Vec::new();
}

/// A piece with room for so much, as far as it may have that.
fn chunk_for(bytes: usize) -> Vec<u8> {
    match bytes >= CHUNK / 2 {
        true => spare().pop().unwrap_or_else(|| Vec::with_capacity(CHUNK)),
        false => Vec::with_capacity(bytes),
    }
}

enum Store {
    Memory(Vec<Vec<u8>>),
    File(File),
}

/// Pages of one size, by their number from 0.
pub struct Images {
    dir: PathBuf,
    size: u32,
    count: u64,
    /// How many it is likely to have.
    expected: u64,
    store: Store,
}

impl Drop for Images {
    fn drop(&mut self) {
        let Store::Memory(chunks) = &mut self.store else { return };
        let mut spare = spare();
        for mut chunk in chunks.drain(..).filter(|chunk| chunk.capacity() == CHUNK) {
            if spare.len() < SPARE_MAX {
                chunk.clear();
                spare.push(chunk);
            }
        }
    }
}

impl Images {
    pub(crate) fn new(dir: &Path, page_size: u32) -> Self {
        Self { dir: dir.to_owned(), size: page_size, count: 0, expected: 0, store: Store::Memory(Vec::new()) }
    }

    /// How many more there will be: a guess that costs nothing but time where it is wrong.
    pub(crate) fn expect(&mut self, more: u64) {
        self.expected = self.count.saturating_add(more);
    }

    pub fn len(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What they take, in memory or on disk.
    pub fn bytes(&self) -> u64 {
        self.count * u64::from(self.size)
    }

    pub(crate) fn push(&mut self, page: &[u8]) -> io::Result<()> {
        if page.len() != self.size as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (taken, size) = (self.bytes(), page.len());
        if let Store::Memory(chunks) = &mut self.store {
            if taken + size as u64 <= MEMORY_MAX as u64 {
                match chunks.last_mut().filter(|last| last.len() + size <= CHUNK) {
                    Some(last) => last.extend_from_slice(page),
                    None => {
                        let more =
                            self.expected.saturating_sub(self.count).saturating_mul(size as u64).max(size as u64);
                        let mut chunk = chunk_for(usize::try_from(more).unwrap_or(CHUNK));
                        chunk.extend_from_slice(page);
                        chunks.push(chunk);
                    }
                }
                self.count += 1;
                return Ok(());
            }
            let file = tempfile::tempfile_in(&self.dir)?;
            let mut at = 0;
            for chunk in chunks.iter() {
                file.write_all_at(chunk, at)?;
                at += chunk.len() as u64;
            }
            self.store = Store::File(file);
        }
        if let Store::File(file) = &self.store {
            file.write_all_at(page, self.bytes())?;
        }
        self.count += 1;
        Ok(())
    }

    /// Adds those of another, of the same size, behind these.
    pub(crate) fn append(&mut self, other: &Images) -> io::Result<()> {
        let mut page = vec![0; other.size as usize];
        for image in 0..other.count {
            other.read(image, &mut page)?;
            self.push(&page)?;
        }
        Ok(())
    }

    /// Fills `page` with one image.
    pub fn read(&self, image: u64, page: &mut [u8]) -> io::Result<()> {
        if image >= self.count || page.len() != self.size as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let at = image * u64::from(self.size);
        match &self.store {
            Store::File(file) => file.read_exact_at(page, at),
            Store::Memory(chunks) => {
                let at = usize::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
                let (chunk, from) = (chunks.get(at / CHUNK), at % CHUNK);
                let image = chunk.and_then(|chunk| chunk.get(from..from + page.len()));
                let image = image.ok_or(io::ErrorKind::UnexpectedEof)?;
                page.copy_from_slice(image);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_the_next_is_bounded_and_given_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let many = SPARE_MAX as u64 * 2 * (CHUNK as u64 / 4096);
        for _ in 0..2 {
            let mut images = Images::new(dir.path(), 4096);
            images.expect(many);
            for n in 0..many {
                images.push(&[n as u8; 4096]).expect("room");
            }
            let mut page = [0; 4096];
            for n in 0..many {
                images.read(n, &mut page).expect("readable");
                assert!(page == [n as u8; 4096], "{n}");
            }
            drop(images);
            let kept = spare().len();
            assert!((1..=SPARE_MAX).contains(&kept), "{kept}");
            assert!(spare().iter().all(|chunk| chunk.is_empty() && chunk.capacity() == CHUNK));
        }
        give_back();
        assert!(spare().capacity() == 0);
    }

    #[test]
    fn images_come_back_by_number_from_memory_and_from_a_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for count in [3_u64, 800] {
            let mut images = Images::new(dir.path(), 65_536);
            for n in 0..count {
                images.push(&vec![n as u8; 65_536]).expect("room");
            }
            assert_eq!((matches!(images.store, Store::File(_)), images.len()), (count == 800, count));
            let mut page = vec![0; 65_536];
            for n in (0..count).rev() {
                images.read(n, &mut page).expect("readable");
                assert!(page.iter().all(|byte| *byte == n as u8), "{n}");
            }
            assert!(images.read(count, &mut page).is_err() && images.push(&[1]).is_err());
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0, "the spool has no name");
    }
}
