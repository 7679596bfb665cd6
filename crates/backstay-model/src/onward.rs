//! Where the logs in a stream go on once it has ended.

use crate::{SourceName, StreamId};
use std::collections::BTreeMap;

/// What the last object of a stream says: one stream for all, and others for those that leave them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Onward {
    /// `None` while the stream goes on.
    pub next: Option<StreamId>,
    pub leaves: BTreeMap<SourceName, StreamId>,
}

impl Onward {
    pub fn ends(&self) -> bool {
        self.next.is_some()
    }

    /// Where the log of a source goes on.
    pub fn of(&self, source: &SourceName) -> Option<StreamId> {
        self.leaves.get(source).copied().or(self.next)
    }

    /// Every stream that it leads to.
    pub fn all(&self) -> impl Iterator<Item = StreamId> {
        self.next.into_iter().chain(self.leaves.values().copied())
    }
}

impl From<StreamId> for Onward {
    fn from(next: StreamId) -> Self {
        Self { next: Some(next), leaves: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_leaves_goes_its_own_way_and_all_others_the_same() {
        let source = |name: &str| name.parse::<SourceName>().expect("a name");
        let (rest, own) = (StreamId::from_bytes([1; 16]), StreamId::from_bytes([2; 16]));
        let onward = Onward { leaves: [(source("crm"), own)].into(), ..rest.into() };
        assert_eq!((onward.of(&source("crm")), onward.of(&source("shop"))), (Some(own), Some(rest)));
        assert_eq!(onward.all().collect::<Vec<_>>(), [rest, own]);
        assert!(onward.ends() && !Onward::default().ends());
        assert_eq!(Onward::default().of(&source("shop")), None);
    }
}
