//! A keeper's turn: who prunes now, and what time it is at the store.
//!
//! A turn is a lease in a dense slot. It keeps two keepers from doing the same work; what they delete is
//! right even if both do. It lasts by the store's clock for everybody else and by a clock that goes on while
//! the machine sleeps for the holder, who deletes nothing after it.
//!
//! A crash leaves a lease that runs out within the hour, or that the next run on this host takes over: the
//! lock on this host dies with its process.

use crate::OpsError;
use crate::catalog::Vault;
use crate::state::{SeenHead, SourceLock};
use backstay_format::facts::{Audit, AuditAct, Lease, Role};
use backstay_model::{Moment, SignerKey};
use backstay_store::keys::{self, Scope};
use backstay_store::repo::{Chain, LeaseSlot, Record, RepoError, Signing};
use std::time::Duration;

/// How long a turn is. It is asked for anew when half of it is over.
const LENGTH: Duration = Duration::from_secs(3600);
/// No longer than this is anybody's turn, whatever the lease says.
const LENGTH_MAX_MILLIS: i64 = 24 * 3_600_000;
/// So much before its end a turn is over for its holder: the longest a request may still be on its way.
const MARGIN: Duration = Duration::from_secs(600);

pub struct Turn<'v> {
    vault: &'v Vault,
    held: Record<Lease>,
    /// By the clock of spans, before the lease was asked for.
    began: Duration,
    /// The store's time when the first lease of this turn was made, and that instant by the clock of spans.
    anchor: (Moment, Duration),
    _lock: SourceLock,
}

impl<'v> Turn<'v> {
    pub async fn take(vault: &'v Vault) -> Result<Self, OpsError> {
        let this_host = || OpsError::LeaseHeld { holder: "another process on this host".to_owned(), until: None };
        let lock = vault.state.lock_keeper()?.ok_or_else(this_host)?;
        let newest = vault.repo.newest_lease(Scope::Prune).await?;
        if let Some(slot) = newest.as_ref().filter(|slot| !slot.is_given_back()) {
            let abandoned = vault.state.keeper()?.turns.iter().any(|turn| turn.digest == slot.record.digest);
            if !abandoned {
                refuse_unless_over(vault, slot).await?;
            }
        }
        let began = vault.env.clock.uptime();
        let held = put(vault, newest.map(|slot| slot.record), LENGTH).await?;
        let anchor = (store_time(vault, &held).await?, began);
        Ok(Self { vault, held, began, anchor, _lock: lock })
    }

    /// The time at the store: that of this turn's beginning, and what has passed since.
    pub fn now(&self) -> Moment {
        let (at, since) = self.anchor;
        let passed = self.vault.env.clock.uptime().saturating_sub(since).as_millis();
        let millis = at.as_millis().saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        Moment::from_millis(millis).unwrap_or(at)
    }

    /// Whether it is still this keeper's turn; asked before every batch of deletions.
    pub async fn check(&mut self) -> Result<(), OpsError> {
        if self.is_over() {
            return Err(OpsError::LeaseOver);
        }
        let passed = self.vault.env.clock.uptime().saturating_sub(self.began);
        if passed >= LENGTH / 2 {
            let began = self.vault.env.clock.uptime();
            self.held = put(self.vault, Some(self.held.clone()), LENGTH).await?;
            self.began = began;
        }
        Ok(())
    }

    /// Whether it may be somebody else's by now. Asks nobody.
    pub fn is_over(&self) -> bool {
        self.vault.env.clock.uptime().saturating_sub(self.began) + MARGIN >= LENGTH
    }

    /// Gives the turn back. If that fails it runs out by itself.
    pub async fn give_back(self) {
        let _ = put(self.vault, Some(self.held), Duration::ZERO).await;
    }
}

/// Until when a turn lasts that nobody gave back.
pub async fn left(vault: &Vault) -> Result<Option<Moment>, OpsError> {
    let newest = vault.repo.newest_lease(Scope::Prune).await?;
    Ok(newest.filter(|slot| !slot.is_given_back()).map(|slot| slot.over_at()))
}

/// What a lease is worth to somebody else.
trait Slot {
    fn is_given_back(&self) -> bool;
    fn over_at(&self) -> Moment;
}

impl Slot for LeaseSlot {
    fn is_given_back(&self) -> bool {
        self.record.facts.until <= self.record.facts.from
    }

    fn over_at(&self) -> Moment {
        let facts = &self.record.facts;
        let length = facts.until.millis_since(facts.from).clamp(0, LENGTH_MAX_MILLIS);
        Moment::from_millis(self.stored.as_millis().saturating_add(length)).unwrap_or(self.stored)
    }
}

/// Whether somebody else's turn is over can be said by the store's clock alone. To see that, something must
/// be made: a record that this was asked.
async fn refuse_unless_over(vault: &Vault, slot: &LeaseSlot) -> Result<(), OpsError> {
    let signer = vault.signer(Role::Keeper)?;
    let known = vault.repo.audit(&signer.public()).await?;
    let chain = next(known.last())?;
    let act = AuditAct::LeaseContested { scope: Scope::Prune.word().to_owned(), number: slot.number };
    let facts = Audit { signer: signer.public(), at: vault.env.clock.now(), act };
    let signing = Signing { key: signer, id: vault.repo.fresh_id(vault.env.random.as_ref()) };
    vault.repo.put_audit(facts, chain, signing).await?;
    let prefix = keys::audit_prefix(&signer.public());
    let now = vault.repo.list(&prefix).await?.into_iter().map(|entry| entry.modified).max();
    if now.is_some_and(|now| now >= slot.over_at()) {
        return Ok(());
    }
    let holder = name_of(vault, &slot.record.facts.holder);
    Err(OpsError::LeaseHeld { holder, until: Some(slot.over_at()) })
}

fn name_of(vault: &Vault, holder: &SignerKey) -> String {
    let known = vault.repo.conf().signers.iter().find(|signer| signer.key == *holder);
    known.map_or_else(|| holder.short(), |signer| signer.name.clone())
}

fn next<F>(last: Option<&Record<F>>) -> Result<Chain, OpsError> {
    let after = |last: &Record<F>| Chain::after(last.chain.sequence, last.digest);
    Ok(last.map_or(Some(Chain::START), after).ok_or(backstay_model::backup::Exhausted)?)
}

/// Puts the lease after `last`. What is remembered of it is written first: a lease nobody remembers would
/// have to run out.
async fn put(vault: &Vault, last: Option<Record<Lease>>, length: Duration) -> Result<Record<Lease>, OpsError> {
    let signer = vault.signer(Role::Keeper)?;
    let from = vault.env.clock.now();
    let length = i64::try_from(length.as_millis()).unwrap_or(0);
    let until = Moment::from_millis(from.as_millis().saturating_add(length)).unwrap_or(from);
    let facts = Lease { holder: signer.public(), from, until };
    let signing = Signing { key: signer, id: vault.repo.fresh_id(vault.env.random.as_ref()) };
    let draft = vault.repo.draft_lease(Scope::Prune, &facts, next(last.as_ref())?, signing)?;
    let turn = SeenHead { sequence: draft.record.chain.sequence, digest: draft.record.digest };
    vault.state.update_keeper(|seen| {
        seen.turns.push(turn);
        let excess = seen.turns.len().saturating_sub(2);
        seen.turns.drain(..excess);
    })?;
    match vault.repo.put_lease(draft).await {
        Err(RepoError::LostRace { .. }) => {
            let winner = vault.repo.newest_lease(Scope::Prune).await?;
            let holder =
                winner.as_ref().map_or_else(|| "another keeper".to_owned(), |w| name_of(vault, &w.record.facts.holder));
            Err(OpsError::LeaseHeld { holder, until: winner.map(|slot| slot.over_at()) })
        }
        other => Ok(other?),
    }
}

/// The time the store gave the lease, and never less than any it gave before.
async fn store_time(vault: &Vault, held: &Record<Lease>) -> Result<Moment, OpsError> {
    let leases = vault.repo.list(&keys::lease_prefix(Scope::Prune)).await?;
    let ours = keys::lease(Scope::Prune, held.chain.sequence.get());
    let missing = || RepoError::Missing { key: ours.to_string() };
    if !leases.iter().any(|entry| entry.key == ours) {
        return Err(missing().into());
    }
    let prunes = vault.repo.list(keys::PRUNE_PREFIX).await?;
    let times = leases.iter().chain(&prunes).map(|entry| entry.modified);
    Ok(times.max().ok_or_else(missing)?)
}
