//! Fingerprints: 128-bit keyed BLAKE3, one per unit, which decide what changed since the last snapshot.
//!
//! The key is not a decryption key, but whoever has it and a snapshot's fingerprints can test guesses
//! about content: it stays sealed in manifests and in the local cache.

use backstay_model::{ByteLen, Digest, FingerprintKeyId, UnitSize};

/// Keyed digest of one unit. Equal fingerprints under one key mean equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    pub const LEN: usize = 16;
}

/// The secret that makes the fingerprints of one source, and its public id.
#[derive(Clone)]
pub struct FingerprintKey {
    pub id: FingerprintKeyId,
    secret: [u8; 32],
}

impl std::fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FingerprintKey({})", self.id.short())
    }
}

const UNIT_CONTEXT: &str = "backstay v1 unit fingerprint";
const ROOT_CONTEXT: &str = "backstay v1 logical root digest";
const COMMIT_CONTEXT: &str = "backstay v1 log commit digest";

impl FingerprintKey {
    pub fn new(id: FingerprintKeyId, secret: [u8; 32]) -> Self {
        Self { id, secret }
    }

    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The working form: derives the unit key once.
    pub fn units(&self) -> UnitHasher {
        UnitHasher { key: blake3::derive_key(UNIT_CONTEXT, &self.secret) }
    }

    /// Starts the logical root digest of a snapshot.
    pub fn root(&self) -> RootHasher {
        let key = blake3::derive_key(ROOT_CONTEXT, &self.secret);
        RootHasher { inner: blake3::Hasher::new_keyed(&key) }
    }
}

impl FingerprintKey {
    /// The working form for the chain of a log.
    pub fn commits(&self) -> CommitHasher {
        CommitHasher { key: blake3::derive_key(COMMIT_CONTEXT, &self.secret) }
    }
}

/// Digests what a log says, commit after commit: each digest stands for everything since the snapshot.
#[derive(Clone)]
pub struct CommitHasher {
    key: [u8; 32],
}

impl CommitHasher {
    /// Begins the digest of one record, after the digest of the one before it (or the snapshot's root).
    pub fn record(&self, previous: &Digest, record: &crate::log::Record) -> RecordHasher {
        let size = record.pages.len() * (record.page_size.get() as usize + size_of::<u32>());
        let mut waiting = Vec::with_capacity(RECORD_HEAD + size.min(AT_ONCE * 2));
        waiting.extend_from_slice(previous.as_bytes());
        waiting.extend_from_slice(&record.tx.get().to_le_bytes());
        waiting.extend_from_slice(&record.time.as_millis().to_le_bytes());
        waiting.push(record.part as u8);
        waiting.extend_from_slice(&record.page_size.get().to_le_bytes());
        waiting.extend_from_slice(&record.page_count.to_le_bytes());
        waiting.extend_from_slice(&(record.pages.len() as u32).to_le_bytes());
        RecordHasher { inner: blake3::Hasher::new_keyed(&self.key), waiting }
    }
}

/// What of a record comes before its pages.
const RECORD_HEAD: usize = 64;
/// So much is hashed at once: pieces of 1 KiB side by side, which takes a third of the time of one after another.
const AT_ONCE: usize = 64 << 10;

/// Takes the pages of a record in their order.
pub struct RecordHasher {
    inner: blake3::Hasher,
    /// What is not hashed yet.
    waiting: Vec<u8>,
}

impl RecordHasher {
    pub fn page(&mut self, number: u32, bytes: &[u8]) {
        self.waiting.extend_from_slice(&number.to_le_bytes());
        self.waiting.extend_from_slice(bytes);
        if let Some((whole, rest)) = self.waiting.split_at_checked(self.waiting.len() / AT_ONCE * AT_ONCE)
            && !whole.is_empty()
        {
            self.inner.update(whole);
            self.waiting = rest.to_vec();
        }
    }

    pub fn finish(mut self) -> Digest {
        self.inner.update(&self.waiting);
        Digest::from_bytes(*self.inner.finalize().as_bytes())
    }
}

/// Fingerprints units. Cheap to copy into worker threads.
#[derive(Clone)]
pub struct UnitHasher {
    key: [u8; 32],
}

impl UnitHasher {
    pub fn fingerprint(&self, unit: &[u8]) -> Fingerprint {
        let digest = blake3::keyed_hash(&self.key, unit);
        let (head, _) = digest.as_bytes().split_at(Fingerprint::LEN);
        let mut out = [0; Fingerprint::LEN];
        out.copy_from_slice(head);
        Fingerprint(out)
    }
}

/// The logical root digest: over each stream's name, unit size, length and fingerprints in order.
/// It is what a restore must reproduce, and what every mark is bound to.
pub struct RootHasher {
    inner: blake3::Hasher,
}

impl RootHasher {
    pub fn begin_stream(&mut self, name: &str, unit: UnitSize, len: ByteLen) {
        self.inner.update(&(name.len() as u32).to_le_bytes());
        self.inner.update(name.as_bytes());
        self.inner.update(&unit.get().to_le_bytes());
        self.inner.update(&len.get().to_le_bytes());
    }

    pub fn units(&mut self, fingerprints: &[Fingerprint]) {
        for fingerprint in fingerprints {
            self.inner.update(&fingerprint.0);
        }
    }

    pub fn finish(self) -> Digest {
        Digest::from_bytes(*self.inner.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> FingerprintKey {
        FingerprintKey::new(FingerprintKeyId::from_bytes([1; 16]), [byte; 32])
    }

    const PAGE: &str = include_str!("../../../docs/formats/keys.md");

    #[test]
    fn the_spec_page_names_the_contexts_and_the_values_they_give() {
        let unit = UnitSize::try_from(4096).expect("valid");
        let units = [key(0x22).units().fingerprint(&[0; 4096]), key(0x22).units().fingerprint(b"tail")];
        let mut root = key(0x22).root();
        root.begin_stream("main", unit, ByteLen::new(4100));
        root.units(&units);
        let rows = [
            format!("| unit key | `{UNIT_CONTEXT}` |"),
            format!("| root key | `{ROOT_CONTEXT}` |"),
            format!("| fingerprint of 4096 zero bytes | {} |", backstay_model::id::to_hex(&units[0].0)),
            format!("| fingerprint of the 4 bytes `tail` | {} |", backstay_model::id::to_hex(&units[1].0)),
            format!("those two units | {} |", root.finish()),
        ];
        for row in rows {
            assert!(PAGE.contains(&row), "docs/formats/keys.md lacks: {row}");
        }
    }

    #[test]
    fn fingerprints_depend_on_key_and_content() {
        let a = key(1).units().fingerprint(b"page");
        assert_eq!(a, key(1).units().fingerprint(b"page"));
        assert_ne!(a, key(2).units().fingerprint(b"page"));
        assert_ne!(a, key(1).units().fingerprint(b"Page"));
    }

    #[test]
    fn a_record_of_any_length_has_the_digest_of_its_bytes_in_one_piece() {
        let (secret, previous) = ([7; 32], Digest::from_bytes([9; 32]));
        let hasher = FingerprintKey::new(FingerprintKeyId::from_bytes([1; 16]), secret).commits();
        for (size, count) in [(4096, 1), (512, 3), (4096, 15), (4096, 16), (1024, 200), (65_536, 1), (65_536, 4)] {
            let record = crate::log::Record {
                span: 0,
                part: crate::log::Part::Whole,
                page_size: backstay_model::PageSize::try_from(size).expect("a size"),
                page_count: count,
                tx: backstay_model::Tx::new(5),
                time: backstay_model::Moment::from_millis(6).expect("a moment"),
                digest: Digest::ZERO,
                pages: (1..=count).collect(),
            };
            let mut plain = previous.as_bytes().to_vec();
            plain.extend([5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, record.part as u8]);
            [size, count, count].iter().for_each(|word| plain.extend(word.to_le_bytes()));
            let mut taken = hasher.record(&previous, &record);
            for page in 1..=count {
                let bytes = vec![page as u8; size as usize];
                taken.page(page, &bytes);
                plain.extend(page.to_le_bytes());
                plain.extend(bytes);
            }
            let whole = blake3::keyed_hash(&blake3::derive_key(COMMIT_CONTEXT, &secret), &plain);
            assert_eq!(taken.finish().as_bytes(), whole.as_bytes(), "{count} pages of {size}");
        }
    }

    #[test]
    fn the_root_tells_streams_lengths_and_order_apart() {
        let unit = UnitSize::try_from(4096).expect("valid");
        let root = |name: &str, len: u64, units: &[u8]| {
            let mut hasher = key(1).root();
            hasher.begin_stream(name, unit, ByteLen::new(len));
            hasher.units(&units.iter().map(|b| Fingerprint([*b; 16])).collect::<Vec<_>>());
            hasher.finish()
        };
        let base = root("main", 8192, &[1, 2]);
        for other in [root("mai", 8192, &[1, 2]), root("main", 8191, &[1, 2]), root("main", 8192, &[2, 1])] {
            assert_ne!(base, other);
        }
    }
}
