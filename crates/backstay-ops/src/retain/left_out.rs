//! What a copy was never sent, said in the copy's own prune record.
//!
//! A prune of a copy finds numbers without a snapshot: left out by the copy's rules, freed at the original before they were
//! sent, or lost. Only the last is a reason to stop, so the first two are written down when copying, by a keeper's
//! signature, in the record that explains every other hole. Nothing is condemned by it.
//!
//! A crash leaves the copy as it was without it: whole, and with holes that the next run accounts for.

use super::record::says_more;
use super::{Turn, newest, write};
use crate::OpsError;
use crate::catalog::{Vault, record_of};
use backstay_format::facts::{self, Head, Prune, PrunedSource};
use backstay_format::layout::FACTS_MAX;
use backstay_model::copies::{self, Held};
use backstay_model::{Digest, Moment, Ranges, SourceName};
use std::collections::BTreeMap;

/// One source of a copy.
pub(crate) struct LeftOut {
    pub source: SourceName,
    /// Numbers the copy need not have.
    pub absent: Ranges,
    /// What stands there now, and is not condemned.
    pub standing: BTreeMap<u64, Option<Digest>>,
}

/// Whether the copy's record says less than it could.
pub(crate) async fn is_unsaid(copy: &Vault, left: &[LeftOut]) -> Result<bool, OpsError> {
    let head = newest(copy).await?;
    let last = head.as_ref().map(|head| &head.record.facts);
    Ok(left.iter().any(|left| said(last, left).is_some()))
}

/// Says it. The number of the record; none when another keeper was quicker to say it.
pub(crate) async fn say(copy: &Vault, left: &[LeftOut]) -> Result<Option<u64>, OpsError> {
    let mut turn = Turn::take(copy).await?;
    let done = in_turn(copy, left, &mut turn).await;
    turn.give_back().await;
    done
}

async fn in_turn(copy: &Vault, left: &[LeftOut], turn: &mut Turn<'_>) -> Result<Option<u64>, OpsError> {
    let head = newest(copy).await?;
    let last = head.as_ref().map(|head| &head.record);
    let said_before = last.map(|last| &last.facts);
    let next = next(said_before, turn.now(), left);
    if !says_more(said_before, &next) {
        return Ok(None);
    }
    if facts::encode(&next).len() > FACTS_MAX {
        return Err(OpsError::RecordFull);
    }
    turn.check().await?;
    Ok(Some(write(copy, last, &next).await?))
}

fn next(last: Option<&Prune>, at: Moment, left: &[LeftOut]) -> Prune {
    let mut next = last.cloned().unwrap_or(Prune { at, sources: Vec::new(), streams: Vec::new() });
    next.at = at;
    for left in left {
        let Some(said) = said(last, left) else { continue };
        let pending = last.and_then(|last| record_of(last, &left.source)).map(|of| of.pending.clone());
        next.sources.retain(|other| other.source != left.source);
        next.sources.push(PrunedSource {
            source: left.source.clone(),
            head: said.head.map(|(sequence, digest)| Head { sequence, digest }),
            gone: said.gone,
            pending: pending.unwrap_or_default(),
        });
    }
    next.sources.sort_by(|a, b| a.source.cmp(&b.source));
    next
}

fn said(last: Option<&Prune>, left: &LeftOut) -> Option<copies::SaidOfCopy> {
    let recorded = last.and_then(|last| record_of(last, &left.source));
    let held = Held {
        standing: left.standing.clone(),
        gone: recorded.map(|recorded| recorded.gone.clone()).unwrap_or_default(),
        head: recorded.and_then(|recorded| recorded.head).map(|head| (head.sequence, head.digest)),
    };
    copies::account(&held, &left.absent)
}
