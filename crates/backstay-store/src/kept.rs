//! A store that keeps what it read of packs and manifests in a folder of this host.
//!
//! For whoever asks the same past again. What is kept is what the store gave: sealed, under a name that is never used
//! again, so it is never out of date. A file is believed only if the digest in it is that of its bytes and of what they
//! were asked for by; whoever reads them opens their seal as ever. Several processes share a folder: a file gets its
//! name when it is whole. What a crash leaves is swept when the folder is opened next, and so is what is more than is
//! allowed, the oldest first. Losing all of it costs time.

use crate::StoreError;
use crate::seam::{Key, Page, Put, Store};
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longer pieces are read once, by a scan.
const PIECE_MAX: u64 = 512 << 10;
const DIGEST: usize = 32;
/// A file on its way to its name.
const STAGED: &str = "part";

pub struct Kept {
    inner: Arc<dyn Store>,
    folder: Arc<Folder>,
}

struct Folder {
    path: PathBuf,
    most: u64,
    /// Bytes in it, as far as this process knows.
    bytes: AtomicU64,
    /// Staged files this process has made.
    made: AtomicU64,
}

impl Kept {
    /// Opens a folder, makes it if it must, and brings it within its bound. One that cannot be used keeps nothing.
    pub fn open(inner: Arc<dyn Store>, path: &Path, most: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let bytes = AtomicU64::new(sweep(path, most)?);
        let folder = Folder { path: path.to_owned(), most, bytes, made: AtomicU64::new(0) };
        Ok(Self { inner, folder: Arc::new(folder) })
    }

    async fn piece<F: Future<Output = Result<Bytes, StoreError>>>(
        &self,
        (key, range): (&Key, Option<Range<u64>>),
        read: impl FnOnce() -> F,
    ) -> Result<Bytes, StoreError> {
        let is_short = range.as_ref().is_none_or(|range| range.end.saturating_sub(range.start) <= PIECE_MAX);
        if !is_short || !is_immutable(key) {
            return read().await;
        }
        let asked = asked_by(key, range.as_ref());
        let (folder, name) = (self.folder.clone(), asked);
        let held = tokio::task::spawn_blocking(move || folder.get(&name)).await;
        if let Ok(Some(bytes)) = held {
            return Ok(bytes);
        }
        let bytes = read().await?;
        if bytes.len() as u64 <= PIECE_MAX {
            let (folder, piece) = (self.folder.clone(), bytes.clone());
            // A full disk must not stand between a person and an answer.
            let _ = tokio::task::spawn_blocking(move || folder.put(&asked, &piece)).await;
        }
        Ok(bytes)
    }
}

/// Packs and manifests: large, sealed, and never marked or replaced.
fn is_immutable(key: &Key) -> bool {
    key.as_str().starts_with("data/") && (key.as_str().contains("/pack/") || key.as_str().contains("/snap/"))
}

fn asked_by(key: &Key, range: Option<&Range<u64>>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_str().as_bytes()).update(&[0]);
    if let Some(range) = range {
        hasher.update(&range.start.to_le_bytes()).update(&range.end.to_le_bytes());
    }
    hasher.finalize()
}

/// Over the bytes and what they were asked for by: one file cannot stand for another.
fn digest(asked: &blake3::Hash, bytes: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(asked.as_bytes());
    hasher.update(bytes).finalize()
}

impl Folder {
    fn get(&self, asked: &blake3::Hash) -> Option<Bytes> {
        let file = File::open(self.path.join(asked.to_hex().as_str())).ok()?;
        let len = file.metadata().ok()?.len();
        if len > PIECE_MAX + DIGEST as u64 {
            return None;
        }
        let mut held = Vec::with_capacity(len as usize);
        file.take(PIECE_MAX + DIGEST as u64).read_to_end(&mut held).ok()?;
        let (said, bytes) = held.split_first_chunk::<DIGEST>()?;
        (digest(asked, bytes) == blake3::Hash::from_bytes(*said)).then(|| Bytes::copy_from_slice(bytes))
    }

    fn put(&self, asked: &blake3::Hash, bytes: &[u8]) -> io::Result<()> {
        let len = (bytes.len() + DIGEST) as u64;
        if self.bytes.fetch_add(len, Ordering::Relaxed) + len > self.most {
            return Ok(());
        }
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        let staged = self.path.join(format!("{}-{made}.{STAGED}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(digest(asked, bytes).as_bytes())?;
        file.write_all(bytes)?;
        std::fs::rename(staged, self.path.join(asked.to_hex().as_str()))
    }
}

/// Removes staged files and, past the bound, the oldest; gives the bytes that stay.
fn sweep(path: &Path, most: u64) -> io::Result<u64> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let is_staged = entry.path().extension().is_some_and(|extension| extension == STAGED);
        if is_staged {
            let _ = std::fs::remove_file(entry.path());
        } else if meta.is_file() {
            files.push(((meta.mtime(), meta.mtime_nsec()), meta.len(), entry.path()));
        }
    }
    files.sort_unstable();
    let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
    if bytes > most {
        // Some more, so that there is room for a while.
        for (_, len, file) in files {
            if bytes <= most / 4 * 3 {
                break;
            }
            if std::fs::remove_file(file).is_ok() {
                bytes -= len;
            }
        }
    }
    Ok(bytes)
}

#[async_trait]
impl Store for Kept {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.inner.put_new(key, bytes).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.piece((key, None), || self.inner.get(key)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.piece((key, Some(range.clone())), || self.inner.get_range(key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::meter::Meter;
    use std::os::unix::fs::PermissionsExt;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("legal")
    }

    async fn store() -> Arc<Meter> {
        let meter = Arc::new(Meter::new(Arc::new(MemoryStore::new())));
        for name in ["data/shop/pack/aa", "data/shop/pack/bb", "data/shop/snap/cc", "ctl/conf/01"] {
            meter.put_new(&key(name), Bytes::from(name.repeat(5000))).await.expect("put");
        }
        meter
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).collect()
    }

    #[tokio::test]
    async fn what_was_read_once_is_not_asked_for_again_and_damage_is_asked_for_anew() {
        let (meter, dir) = (store().await, tempfile::tempdir().expect("a folder"));
        let folder = dir.path().join("kept");
        let read = async |most| {
            let kept = Kept::open(meter.clone(), &folder, most).expect("opens");
            let before = meter.read();
            for name in ["data/shop/pack/aa", "data/shop/pack/bb"] {
                assert_eq!(kept.get_range(&key(name), 7..900).await.expect("read"), name.repeat(5000)[7..900]);
            }
            assert_eq!(kept.get(&key("data/shop/snap/cc")).await.expect("read").len(), 17 * 5000);
            assert_eq!(kept.get(&key("ctl/conf/01")).await.expect("read").len(), 11 * 5000);
            meter.read().since(&before).calls()
        };
        assert_eq!(read(1 << 20).await, 4);
        assert_eq!(read(1 << 20).await, 1, "only what may be another tomorrow");
        let all = files(&folder);
        assert_eq!(all.len(), 3);
        for file in &all {
            assert_eq!(std::fs::metadata(file).expect("there").permissions().mode() & 0o777, 0o600);
            let mut bytes = std::fs::read(file).expect("read");
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            std::fs::write(file, bytes).expect("damaged");
        }
        assert_eq!(read(1 << 20).await, 4, "what is damaged is not believed");
        assert_eq!(read(1 << 20).await, 1, "and is kept anew");
        let whole = std::fs::read(&all[0]).expect("read");
        std::fs::write(&all[1], whole).expect("another's");
        assert_eq!(read(1 << 20).await, 2, "one does not stand for another");
        std::fs::write(folder.join("1-1.part"), "half").expect("left by a crash");
        assert_eq!(read(100_000).await, 1);
        assert_eq!(files(&folder).len(), 3, "what was left is swept");
        assert!(read(50_000).await > 1, "the oldest go past the bound");
        let bytes: u64 = files(&folder).iter().map(|file| std::fs::metadata(file).expect("there").len()).sum();
        assert!(bytes <= 50_000, "{bytes}");
    }
}
