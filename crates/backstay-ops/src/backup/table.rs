//! The refs table of a new snapshot: what is still used of the base's objects, and this run's packs.

use super::capture::Captured;
use crate::OpsError;
use crate::base::Base;
use backstay_format::table::{Reference, Table};
use backstay_model::ObjectId;
use backstay_store::repo::RepoError;
use std::collections::HashMap;

pub fn build(base: Option<&Base>, captured: &Captured) -> Result<Table, OpsError> {
    let mut wraps = vec![captured.sealer.wrap().to_vec()];
    let mut index: HashMap<Vec<u8>, u16> = HashMap::new();
    let fresh: HashMap<ObjectId, &Reference> = captured.packed.packs.iter().map(|r| (r.object, r)).collect();
    let mut refs = Vec::with_capacity(captured.live.len());
    for (object, live) in &captured.live {
        let mut reference = match (fresh.get(object), base) {
            (Some(fresh), _) => (*fresh).clone(),
            (None, Some(base)) => {
                let known = base.table.find(object).ok_or(RepoError::Unlisted { object: *object })?;
                let wrap = base.table.wrap(known).expect("a parsed table names only wraps it has");
                let at = *index.entry(wrap.to_vec()).or_insert_with(|| {
                    wraps.push(wrap.to_vec());
                    (wraps.len() - 1) as u16
                });
                Reference { wrap: at, ..known.clone() }
            }
            (None, None) => return Err(RepoError::Unlisted { object: *object }.into()),
        };
        reference.live_units = live.units as u32;
        reference.live_nodes = live.nodes;
        refs.push(reference);
    }
    Ok(Table::new(refs, wraps)?)
}
