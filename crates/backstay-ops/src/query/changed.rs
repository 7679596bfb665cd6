//! Which pages may differ between two moments, told from where they lie and without reading one.
//!
//! A place in the repository never changes what it holds: pages that lie at one place are equal. Those that lie at
//! two may be equal all the same, which is found out by whoever reads them.

use super::pages::{Pages, fault};
use super::stored::Stored;
use crate::log::{Image, Lies, PageMap};
use backstay_model::ObjectId;
use backstay_sqlite::lazy::{PageFault, PageSource};
use std::collections::BTreeSet;
use std::sync::Arc;

/// More pages than one in so many, and it is no longer worth knowing which.
const SHARE_MAX: u32 = 4;
/// As many are always worth it.
const ALWAYS: usize = 256;

/// In order; `None` where too much differs.
pub(super) fn between(before: &Pages, after: &Pages) -> Result<Option<Vec<u32>>, PageFault> {
    if before.page_size() != after.page_size() {
        return Ok(None);
    }
    let most = (before.pages().min(after.pages()) / SHARE_MAX) as usize;
    let most = most.max(ALWAYS);
    let mut changed = BTreeSet::new();
    if !Arc::ptr_eq(before.stored(), after.stored()) && !of_snapshots(before, after, (&mut changed, most))? {
        return Ok(None);
    }
    of_logs(before.map(), after.map(), &mut changed);
    let shared = before.pages().max(after.pages());
    Ok((changed.len() <= most).then(|| changed.into_iter().filter(|page| *page <= shared).collect()))
}

/// Pages that one of the logs wrote, and the other did not write at that place.
fn of_logs(before: Option<&PageMap>, after: Option<&PageMap>, changed: &mut BTreeSet<u32>) {
    if let (Some(before), Some(after)) = (before, after)
        && Arc::ptr_eq(before.maps(), after.maps())
    {
        let (first, last) = (before.tx().min(after.tx()), before.tx().max(after.tx()));
        let between = after.maps().commits().iter().filter(|commit| first < commit.tx && commit.tx <= last);
        changed.extend(between.flat_map(|commit| &commit.written));
        return;
    }
    let written: BTreeSet<u32> = before.into_iter().chain(after).flat_map(PageMap::written).collect();
    changed.extend(written.into_iter().filter(|page| lies(before, *page) != lies(after, *page)));
}

/// Who has a page: of a log by the object itself, as two maps number the same objects differently.
fn lies(map: Option<&PageMap>, page: u32) -> (Lies, Option<ObjectId>) {
    match map.map_or(Lies::InSnapshot, |map| map.find(page)) {
        Lies::InLog(image) => {
            let object = map.and_then(|map| map.maps().object_of(&image)).map(|index| index.id);
            (Lies::InLog(Image { object: 0, ..image }), object)
        }
        other => (other, None),
    }
}

/// Adds what lies elsewhere in the other snapshot; `false` when it is too much.
fn of_snapshots(
    before: &Pages,
    after: &Pages,
    (changed, most): (&mut BTreeSet<u32>, usize),
) -> Result<bool, PageFault> {
    let (old, new): (&Stored, &Stored) = (before.stored(), after.stored());
    if old.unit != new.unit {
        return Ok(false);
    }
    let (old, new) = (old.reader().clone(), new.reader().clone());
    // Pages are no longer than units.
    let per_unit = after.stored().unit.bytes() / after.page_size().bytes().max(1);
    let most = most as u64 / per_unit.max(1);
    let found = after.wait_for(async move { old.moved(&new, 0, most).await })?;
    let Some(units) = found.map_err(|error| fault(&error))? else { return Ok(false) };
    for unit in units {
        let pages = unit * per_unit + 1..=(unit + 1) * per_unit;
        changed.extend(pages.filter_map(|page| u32::try_from(page).ok()));
    }
    Ok(true)
}
