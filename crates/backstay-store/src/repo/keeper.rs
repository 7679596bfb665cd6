//! What a keeper writes down: prune records, and whose turn it is.

use super::records::{Chain, Record};
use super::{RepoError, Repository, Signing};
use crate::keys::{self, Scope};
use crate::seam::Entry;
use backstay_format::ObjectType;
use backstay_format::facts::{self, Lease, Prune, Role};
use backstay_model::{Moment, Sequence};

/// The newest prune record, and the time the store gave the newest of them.
#[derive(Debug, Clone)]
pub struct PruneHead {
    pub record: Record<Prune>,
    pub stored: Moment,
}

/// The newest slot of a lease.
#[derive(Debug, Clone)]
pub struct LeaseSlot {
    pub number: u64,
    /// When the store made it.
    pub stored: Moment,
    pub record: Record<Lease>,
}

impl Repository {
    /// The newest prune record; there is none until something was condemned.
    pub async fn newest_prune(&self) -> Result<Option<PruneHead>, RepoError> {
        let Some((number, entry)) = self.newest_slot(keys::PRUNE_PREFIX).await? else { return Ok(None) };
        let record = self.record::<Prune>(&entry.key, ObjectType::Prune, &[Role::Keeper]).await?;
        if record.chain.sequence.get() != number {
            return Err(RepoError::misplaced(&entry.key, "it is not the prune record its name says"));
        }
        Ok(Some(PruneHead { record, stored: entry.modified }))
    }

    pub async fn put_prune(&self, facts: &Prune, chain: Chain, new: Signing<'_>) -> Result<Record<Prune>, RepoError> {
        let key = keys::prune(chain.sequence.get());
        let bytes = self.sign(ObjectType::Prune, facts::encode(facts), chain, new);
        let record = Record::parse(&key, &bytes, ObjectType::Prune)?;
        self.put_slot(&key, bytes).await?;
        Ok(record)
    }

    pub async fn newest_lease(&self, scope: Scope) -> Result<Option<LeaseSlot>, RepoError> {
        let Some((number, entry)) = self.newest_slot(&keys::lease_prefix(scope)).await? else { return Ok(None) };
        let record = self.record::<Lease>(&entry.key, ObjectType::Lease, &[Role::Keeper]).await?;
        if record.chain.sequence.get() != number || record.facts.holder != record.signer {
            return Err(RepoError::misplaced(&entry.key, "it is not the lease its name says"));
        }
        Ok(Some(LeaseSlot { number, stored: entry.modified, record }))
    }

    /// A lease about to be put: what must be remembered of it first.
    pub fn draft_lease(
        &self,
        scope: Scope,
        facts: &Lease,
        chain: Chain,
        new: Signing<'_>,
    ) -> Result<LeaseDraft, RepoError> {
        let key = keys::lease(scope, chain.sequence.get());
        let bytes = self.sign(ObjectType::Lease, facts::encode(facts), chain, new);
        let record = Record::parse(&key, &bytes, ObjectType::Lease)?;
        Ok(LeaseDraft { key, bytes, record })
    }

    /// Puts it, unless somebody else has the slot.
    pub async fn put_lease(&self, draft: LeaseDraft) -> Result<Record<Lease>, RepoError> {
        self.put_slot(&draft.key, draft.bytes).await?;
        Ok(draft.record)
    }

    /// The highest of slots that are dense from 1. One that is missing below it was taken away.
    async fn newest_slot(&self, prefix: &str) -> Result<Option<(u64, Entry)>, RepoError> {
        let entries = self.list(prefix).await?;
        let mut slots: Vec<(u64, Entry)> =
            entries.into_iter().filter_map(|entry| Some((keys::slot_number(&entry.key)?, entry))).collect();
        slots.sort_unstable_by_key(|(number, _)| *number);
        for (wanted, (number, entry)) in (Sequence::FIRST.get()..).zip(&slots) {
            if *number != wanted {
                return Err(RepoError::BrokenChain { key: entry.key.to_string() });
            }
        }
        Ok(slots.pop())
    }
}

pub struct LeaseDraft {
    key: crate::Key,
    bytes: bytes::Bytes,
    pub record: Record<Lease>,
}
