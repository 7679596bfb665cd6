//! What a host remembers of its checks: when each object of a source was last found good.
//!
//! Objects never change, so an id is enough. One file per source, `checked`, replaced whole: a crash loses
//! what was learnt since it was last written, and a damaged file is as good as none: everything is then
//! checked anew. Bounded; what does not fit is forgotten, which costs another look.

use crate::disk::{self, PathError};
use crate::state::State;
use backstay_model::{Moment, ObjectId, SourceName};
use std::collections::{BTreeMap, BTreeSet};

const MAGIC: [u8; 8] = *b"BSCHK1\r\n";
const ROW: usize = 32;
const DIGEST: usize = 32;
/// Rows kept: 64 MB of memory and of disk.
const ROWS_MAX: usize = 2_000_000;

/// When one object was last found good, by depth. Never is the beginning of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    pub intact: i64,
    pub authentic: i64,
}

impl Times {
    fn latest(self, other: Self) -> Self {
        Self { intact: self.intact.max(other.intact), authentic: self.authentic.max(other.authentic) }
    }

    /// The last time it was found good at all; deeper is good enough.
    pub fn last(self) -> Option<Moment> {
        moment(self.intact.max(self.authentic))
    }
}

fn moment(millis: i64) -> Option<Moment> {
    (millis > 0).then(|| Moment::from_millis(millis)).flatten()
}

/// What is remembered of a source's objects: all that its manifests referred to when it was last gone through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked(BTreeMap<ObjectId, Times>);

/// What a person wants to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct CheckedSummary {
    pub objects: usize,
    /// Objects that were never found good by a check on this host.
    pub never: usize,
    /// Of the others, the one that was checked longest ago.
    pub oldest: Option<Moment>,
    pub newest: Option<Moment>,
}

impl Checked {
    pub fn of(&self, object: &ObjectId) -> Times {
        self.0.get(object).copied().unwrap_or_default()
    }

    pub fn found_good(&mut self, object: ObjectId, times: Times) {
        let known = self.0.entry(object).or_default();
        *known = known.latest(times);
    }

    /// What is wrong with an object makes what was known of it void.
    pub fn found_bad(&mut self, object: ObjectId) {
        self.0.insert(object, Times::default());
    }

    /// Forgets what nothing refers to any more, and names what was never looked at.
    pub fn restrict(&mut self, referenced: &BTreeSet<ObjectId>) {
        self.0.retain(|object, _| referenced.contains(object));
        for object in referenced {
            self.0.entry(*object).or_default();
        }
    }

    pub fn summary(&self) -> Option<CheckedSummary> {
        let times = || self.0.values().filter_map(|times| times.last());
        (!self.0.is_empty()).then(|| CheckedSummary {
            objects: self.0.len(),
            never: self.0.len() - times().count(),
            oldest: times().min(),
            newest: times().max(),
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (object, times) in self.0.iter().take(ROWS_MAX) {
            bytes.extend(object.as_bytes());
            bytes.extend(times.intact.to_le_bytes());
            bytes.extend(times.authentic.to_le_bytes());
        }
        let digest = *blake3::hash(&bytes).as_bytes();
        bytes.extend(digest);
        bytes
    }

    /// Nothing at all unless every byte is as it was written.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
        let rows = body.strip_prefix(&MAGIC)?;
        if *blake3::hash(body).as_bytes() != *digest || rows.len() % ROW != 0 {
            return None;
        }
        let mut checked = Self::default();
        for row in rows.chunks_exact(ROW) {
            let (id, times) = row.split_first_chunk::<16>()?;
            let (intact, rest) = times.split_first_chunk::<8>()?;
            let authentic = rest.first_chunk::<8>()?;
            let times = Times { intact: i64::from_le_bytes(*intact), authentic: i64::from_le_bytes(*authentic) };
            checked.0.insert(ObjectId::from_bytes(*id), times);
        }
        Some(checked)
    }
}

impl State {
    pub fn checked(&self, source: &SourceName) -> Checked {
        let most = (MAGIC.len() + ROWS_MAX * ROW + DIGEST) as u64;
        let bytes = disk::read_small(&self.checked_path(source), most).ok().flatten();
        bytes.and_then(|bytes| Checked::parse(&bytes)).unwrap_or_default()
    }

    /// Changes what is remembered; two checks beside each other lose nothing of what either learnt.
    pub fn update_checked(&self, source: &SourceName, change: impl FnOnce(&mut Checked)) -> Result<(), PathError> {
        self.source_dir(source)?;
        self.replace_locked(&self.checked_path(source), || {
            let mut checked = self.checked(source);
            change(&mut checked);
            checked.encode()
        })
    }

    fn checked_path(&self, source: &SourceName) -> std::path::PathBuf {
        self.dir().join(source.as_str()).join("checked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_damaged_memory_is_none() {
        let mut checked = Checked::default();
        checked.found_good(ObjectId::from_bytes([1; 16]), Times { intact: 5, authentic: 0 });
        checked.found_good(ObjectId::from_bytes([2; 16]), Times { intact: 7, authentic: 9 });
        let bytes = checked.encode();
        assert_eq!(Checked::parse(&bytes), Some(checked));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Checked::parse(&bad), None, "byte {at}");
            assert_eq!(Checked::parse(&bytes[..at]), None, "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Checked::parse(&bytes), None);
        }
    }
}
