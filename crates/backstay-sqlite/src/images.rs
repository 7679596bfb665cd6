//! Images of pages on their way from the log to the repository: in memory while they are few, in an
//! unlinked file beyond that. Nothing remains of it, whatever ends the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Above this the images go to a file. More than a log is allowed to have before it is copied back: who is late once must not
/// be slower for it.
const MEMORY_MAX: usize = 48 << 20;

enum Store {
    Memory(Vec<u8>),
    File(File),
}

/// Pages of one size, by their number from 0.
pub struct Images {
    dir: PathBuf,
    size: u32,
    count: u64,
    store: Store,
}

impl Images {
    pub(crate) fn new(dir: &Path, page_size: u32) -> Self {
        Self { dir: dir.to_owned(), size: page_size, count: 0, store: Store::Memory(Vec::new()) }
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
        if let Store::Memory(bytes) = &mut self.store {
            if bytes.len() + page.len() <= MEMORY_MAX {
                bytes.extend_from_slice(page);
                self.count += 1;
                return Ok(());
            }
            let file = tempfile::tempfile_in(&self.dir)?;
            file.write_all_at(bytes, 0)?;
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
            Store::Memory(bytes) => {
                let from = usize::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
                let image = bytes.get(from..from + page.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
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
