//! Which files of a Litestream replica lead to a state.
//!
//! A file holds what the transactions from `min` to `max` changed, and one that begins with the first is whole. Levels
//! overlap: the same transactions are in small files and in larger ones that were put together from them. A file that
//! begins before what is there already does no harm: it has each page as it was after its last transaction.

use crate::{Kind, Kinded};

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
}

impl Kinded for NoChain {
    fn kind(&self) -> Kind {
        match self {
            NoChain::Gap { .. } => Kind::Corrupt,
            NoChain::NoSnapshot { .. } | NoChain::Ends { .. } | NoChain::Inside { .. } => Kind::Usage,
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
