//! A snapshot that is made without its database: of the newest one, and what its log has written since.
//!
//! Owns what makes it as good as one that was captured: it builds on the base that this host wrote with the snapshot
//! before, refers to what is unchanged and stores what was written. Where any of that is in doubt nothing is made: the
//! log is there. Everything else, and the order that makes it safe, is that of a backup.

use super::capture::{Captured, CapturedStream, new_packer};
use super::{BackupReport, BackupRequest, Committing, Plan, Purpose, commit, gather};
use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::At;
use crate::env::blocking;
use crate::fingerprints::FingerprintFile;
use crate::map::{self, MapInput};
use backstay_format::facts::{Following, Role, Stream};
use backstay_model::backup::BranchPlan;
use backstay_model::catalog::Quality;
use backstay_model::{BranchNo, ByteLen, Moment, ObjectId, PageSize, UnitSize};
use std::collections::HashSet;
use std::io;
use std::path::Path;

/// Objects that one may refer to: each adds some, and nothing is stored again that the log did not write.
const OBJECTS_MAX: usize = 2048;
/// What is read and written here, in words.
const WHAT: &str = "the pages of the log";

/// The state of a log that becomes a snapshot.
pub(crate) struct FromLog {
    /// The newest snapshot, on which it builds.
    pub base: ObjectId,
    pub branch: BranchNo,
    pub at: Moment,
    pub page_size: PageSize,
    pub page_count: u32,
    /// The fewest pages that the database had since the base: of those behind nothing is as it was there.
    pub fewest: u32,
    /// Where the log goes on from it.
    pub following: Following,
}

/// Pages that the log wrote since the base, by their numbers.
pub(crate) trait Written: Send + Sync {
    /// Those there are, ascending.
    fn pages(&self) -> Vec<u32>;
    fn read(&self, page: u32, into: &mut [u8]) -> io::Result<()>;
}

/// Takes the snapshot. `None` where it cannot be made: something about the base is not as it should be. The caller
/// holds the source's lock.
pub(crate) async fn make_of_log(
    vault: &Vault,
    request: &BackupRequest,
    (of, written): (&FromLog, &dyn Written),
) -> Result<Option<BackupReport>, OpsError> {
    vault.signer(Role::Writer)?;
    let (began, start) = (vault.env.clock.now(), vault.env.clock.uptime());
    let purpose = Purpose::Log(of);
    let gathered = gather::gather(vault, request, purpose).await?;
    if !gathered.is_just(&of.base) {
        return Ok(None);
    }
    let plan = Plan { leaving: HashSet::new(), ..gather::decide(&gathered, purpose)? };
    if !matches!(plan.place.branch, BranchPlan::Continue(branch) if branch == of.branch) {
        return Ok(None);
    }
    let Some(captured) = blocking(|| pack(vault, request, (of, written), &gathered))? else { return Ok(None) };
    let id = vault.repo.fresh_id(vault.env.random.as_ref());
    let committing = Committing { id, taken: of.at, began, start, gathered, plan, captured, purpose };
    commit(vault, request, committing).await.map(Some)
}

/// Stores what was written, and builds the map of all.
fn pack(
    vault: &Vault,
    request: &BackupRequest,
    (of, written): (&FromLog, &dyn Written),
    gathered: &gather::Gathered,
) -> Result<Option<Captured>, OpsError> {
    let (Some(base), Some(identity)) = (&gathered.base, gathered.file) else { return Ok(None) };
    let Ok(unit) = UnitSize::try_from(of.page_size.get()) else { return Ok(None) };
    let length = ByteLen::new(u64::from(of.page_count) * unit.bytes());
    let fits = base.unit() == Some(unit) && base.table.refs().len() < OBJECTS_MAX && of.page_count > 0;
    let Some(pages) = stored(of, base.units(), written).filter(|_| fits) else { return Ok(None) };
    let (key, units) = (base.key(), u64::from(of.page_count));
    let sealer = vault.repo.sealer(vault.env.random.as_ref());
    let mut packer = new_packer(vault, request, &sealer);
    let seen = FingerprintFile::fresh(&vault.state.source_dir(&request.source)?, "made")?;
    copy(&base.fingerprints, &seen, units.min(base.units()))?;
    packer.begin_stream(0)?;
    let (hasher, mut bytes) = (key.units(), vec![0; unit.get() as usize]);
    for (page, has_image) in &pages {
        vault.env.cancel.check()?;
        match has_image {
            true => written.read(*page, &mut bytes).at("read", Path::new(WHAT))?,
            false => bytes.fill(0),
        }
        let (number, fingerprint) = (u64::from(*page) - 1, hasher.fingerprint(&bytes));
        seen.write(number, &[fingerprint]).at("write", Path::new(WHAT))?;
        packer.unit(number, fingerprint, &bytes)?;
    }
    let input =
        MapInput { base: Some(&base.map), units, placed: packer.take_placed()?, leaving: &HashSet::new(), known: None };
    let map = map::build(input, &mut packer)?;
    let packed = packer.finish()?;
    let mut root = key.root();
    root.begin_stream("main", unit, length);
    seen.add_to_root(&mut root, units).at("read", Path::new(WHAT))?;
    let facts = Stream { name: "main".into(), unit: unit.get(), length, levels: map.levels };
    let engine =
        serde_json::json!({ "page_size": of.page_size.get(), "page_count": of.page_count, "made_of_log": true });
    let live = map.live.clone();
    let streams = vec![CapturedStream { facts, map, fingerprints: seen }];
    Ok(Some(Captured {
        moment: of.at,
        length,
        root: root.finish(),
        quality: Quality::Whole,
        live,
        streams,
        packed,
        sealer,
        identity,
        key,
        units,
        units_stored: pages.len() as u64,
        engine,
        path: request.path.display().to_string(),
        opening: None,
        capture: None,
    }))
}

/// The pages that are stored, and whether the log has an image of each; `None` where one is missing. Only the page
/// SQLite never writes has none.
fn stored(of: &FromLog, known: u64, written: &dyn Written) -> Option<Vec<(u32, bool)>> {
    let known = u32::try_from(known).ok()?.min(of.fewest).min(of.page_count);
    let never = u32::try_from((1_u64 << 30) / of.page_size.bytes() + 1).ok();
    let pages: Vec<u32> = written.pages().into_iter().filter(|page| *page <= of.page_count).collect();
    let (mut stored, mut next) = (Vec::with_capacity(pages.len()), known + 1);
    for page in pages {
        while next < page {
            (Some(next) == never).then(|| stored.push((next, false)))?;
            next += 1;
        }
        stored.push((page, true));
        next = next.max(page + 1);
    }
    while next <= of.page_count {
        (Some(next) == never).then(|| stored.push((next, false)))?;
        next += 1;
    }
    Some(stored)
}

fn copy(from: &FingerprintFile, to: &FingerprintFile, units: u64) -> Result<(), OpsError> {
    let (mut at, mut written) = (0, Ok(()));
    let read = from.each(units, |batch| {
        if written.is_ok() {
            written = to.write(at, batch);
        }
        at += batch.len() as u64;
    });
    Ok(read.and(written).at("copy", Path::new("the fingerprints of the base"))?)
}
