//! Which files of a Litestream replica lead to a state.
//!
//! A file holds what the transactions from `min` to `max` changed, and one that begins with the first is whole. Levels
//! overlap: the same transactions are in small files and in larger ones that were put together from them. A file that
//! begins before what is there already does no harm: it has each page as it was after its last transaction.

use crate::{Kind, Kinded, Moment};
use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct LtxFile {
    pub level: u8,
    pub min: u64,
    pub max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoChain {
    #[error("the replica has no snapshot{}", at_or_before(.upto))]
    NoSnapshot { upto: Option<u64> },
    #[error("transactions {} to {} are in no file of the replica", txid(*.first), txid(*.last))]
    Gap { first: u64, last: u64 },
    #[error("the replica ends with transaction {}, before {}", txid(*.last), txid(*.wanted))]
    Ends { wanted: u64, last: u64 },
    #[error("no file of the replica ends with transaction {}; the nearest before it is {}", txid(*.wanted), txid(*.before))]
    Inside { wanted: u64, before: u64 },
    #[error("nothing in the replica is as old as {at}; its oldest state is of {oldest}")]
    BeforeFirst { at: Moment, oldest: Moment },
}

impl Kinded for NoChain {
    fn kind(&self) -> Kind {
        match self {
            NoChain::Gap { .. } => Kind::Corrupt,
            NoChain::NoSnapshot { .. }
            | NoChain::Ends { .. }
            | NoChain::Inside { .. }
            | NoChain::BeforeFirst { .. } => Kind::Usage,
        }
    }
}

fn at_or_before(upto: &Option<u64>) -> String {
    upto.map_or_else(String::new, |upto| format!(" at or before transaction {}", txid(upto)))
}

/// A transaction as Litestream writes its number.
pub fn txid(number: u64) -> String {
    format!("{number:016x}")
}

/// The last transaction that had been made by an instant, of those with which a file ends.
///
/// A file has the time at which it was written, or that of its last transaction, never an earlier one; so the earliest of those that end
/// alike says most. Where a clock went back, a later transaction is not believed to be older than one before it.
pub fn newest_at(written: &[(LtxFile, Moment)], at: Moment) -> Result<u64, NoChain> {
    let mut times: BTreeMap<u64, Moment> = BTreeMap::new();
    for (file, moment) in written {
        let time = times.entry(file.max).or_insert(*moment);
        *time = (*time).min(*moment);
    }
    let mut latest = None;
    let mut found = None;
    for (txid, time) in &times {
        latest = latest.max(Some(*time));
        if latest <= Some(at) {
            found = Some(*txid);
        }
    }
    let oldest = times.values().next().copied();
    match (found, oldest) {
        (Some(found), _) => Ok(found),
        (None, Some(oldest)) => Err(NoChain::BeforeFirst { at, oldest }),
        (None, None) => Err(NoChain::NoSnapshot { upto: None }),
    }
}

/// The files to lay over one another, in order, to come to transaction `wanted` or to the last one.
pub fn chain(files: &[LtxFile], wanted: Option<u64>) -> Result<Vec<LtxFile>, NoChain> {
    let most = wanted.unwrap_or(u64::MAX);
    let usable = || files.iter().filter(|file| file.max <= most);
    let snapshots = usable().filter(|file| file.min == 1);
    let mut at = *snapshots.max_by_key(|file| (file.max, file.level)).ok_or(NoChain::NoSnapshot { upto: wanted })?;
    let mut chain = vec![at];
    loop {
        let reach = at.max;
        let follows = usable().filter(|file| file.min <= reach.saturating_add(1) && file.max > reach);
        // The one that leads furthest: the fewest files are read.
        let Some(next) = follows.max_by_key(|file| (file.max, file.level)) else { break };
        at = *next;
        chain.push(at);
    }
    let behind = files.iter().filter(|file| file.max > at.max);
    match (wanted, usable().filter(|file| file.max > at.max).map(|file| file.min).min()) {
        (_, Some(next)) => Err(NoChain::Gap { first: at.max + 1, last: next.saturating_sub(1) }),
        (Some(wanted), None) if at.max < wanted => Err(match behind.clone().next() {
            None => NoChain::Ends { wanted, last: at.max },
            Some(_) => NoChain::Inside { wanted, before: at.max },
        }),
        _ => Ok(chain),
    }
}
