//! A manifest's table: every object the snapshot refers to, enough to check and to prune without an
//! identity, and the wrapped data keys, so that a reader opens any frame with one ranged read.
//!
//! Sorted by object, no object twice: membership is a binary search and equal tables are equal bytes.

use crate::Corrupt;
use crate::cursor::{Cursor, Writer};
use crate::layout::{self, reference, table};
use crate::object::ObjectType;
use backstay_model::{Digest, ObjectId};

const WHAT: &str = "the refs table";

/// One object a snapshot refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub object: ObjectId,
    pub kind: ObjectType,
    /// The object's length in the store.
    pub stored: u64,
    /// BLAKE3 of the whole object as stored.
    pub digest: Digest,
    pub salt: [u8; 32],
    /// Which of the table's wraps holds the object's data key.
    pub wrap: u16,
    /// Units of this snapshot that lie in the object.
    pub live_units: u32,
    /// Units the object was made with.
    pub total_units: u32,
    /// Map nodes of this snapshot that lie in the object.
    pub live_nodes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    refs: Vec<Reference>,
    wraps: Vec<Vec<u8>>,
}

impl Table {
    /// Sorts the references; an object named twice is a bug of the caller.
    pub fn new(mut refs: Vec<Reference>, wraps: Vec<Vec<u8>>) -> Result<Self, Corrupt> {
        refs.sort_by_key(|r| r.object);
        let table = Self { refs, wraps };
        table.check()?;
        Ok(table)
    }

    pub fn refs(&self) -> &[Reference] {
        &self.refs
    }

    pub fn find(&self, object: &ObjectId) -> Option<&Reference> {
        let at = self.refs.binary_search_by_key(object, |r| r.object).ok()?;
        self.refs.get(at)
    }

    /// The wrapped data key of a reference of this table.
    pub fn wrap(&self, reference: &Reference) -> Option<&[u8]> {
        self.wraps.get(usize::from(reference.wrap)).map(Vec::as_slice)
    }

    fn check(&self) -> Result<(), Corrupt> {
        let broken = |rule| Err(Corrupt::Rule { what: WHAT, rule });
        if !self.refs.is_sorted_by(|a, b| a.object < b.object) {
            return broken("objects are sorted and named once");
        }
        if self.refs.iter().any(|r| usize::from(r.wrap) >= self.wraps.len()) {
            return broken("every reference names a wrap of the table");
        }
        if self.refs.iter().any(|r| !matches!(r.kind, ObjectType::Pack | ObjectType::Log)) {
            return broken("frames lie in packs and log objects");
        }
        if self.refs.iter().any(|r| r.live_units > r.total_units) {
            return broken("no more units live than the object has");
        }
        if self.refs.iter().any(|r| r.stored > layout::OBJECT_MAX as u64) {
            return broken("no object is longer than objects can be");
        }
        Ok(())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(table::LEN + self.refs.len() * reference::LEN);
        let mut w = Writer::begin(&mut out, table::LEN);
        w.u32(table::REFS, self.refs.len() as u32).u32(table::WRAPS, self.wraps.len() as u32);
        for r in &self.refs {
            let mut w = Writer::begin(&mut out, reference::LEN);
            w.put(reference::OBJECT, r.object.as_bytes()).u64(reference::STORED, r.stored);
            w.put(reference::DIGEST, r.digest.as_bytes()).put(reference::SALT, &r.salt);
            w.u16(reference::WRAP, r.wrap).u8(reference::TYPE, r.kind as u8);
            w.u32(reference::LIVE_UNITS, r.live_units).u32(reference::TOTAL_UNITS, r.total_units);
            w.u32(reference::LIVE_NODES, r.live_nodes);
        }
        for wrap in &self.wraps {
            out.extend_from_slice(&(wrap.len() as u32).to_le_bytes());
            out.extend_from_slice(wrap);
        }
        out
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut cursor = Cursor::new(WHAT, bytes);
        let head = cursor.fixed(table::LEN)?;
        let (refs_len, wraps_len) = (head.u32(table::REFS)? as usize, head.u32(table::WRAPS)? as usize);
        if refs_len > cursor.rest() / reference::LEN || wraps_len > cursor.rest() / 4 {
            return Err(Corrupt::Truncated { what: WHAT });
        }
        let mut refs = Vec::with_capacity(refs_len);
        for _ in 0..refs_len {
            refs.push(parse_reference(&cursor.fixed(reference::LEN)?)?);
        }
        let mut wraps = Vec::with_capacity(wraps_len);
        for _ in 0..wraps_len {
            let len = cursor.fixed(4)?.u32(0..4)? as usize;
            if len > layout::WRAP_MAX {
                return Err(Corrupt::TooLong { what: "a wrapped key", len: len as u64, max: layout::WRAP_MAX as u64 });
            }
            wraps.push(cursor.take(len)?.to_vec());
        }
        cursor.end()?;
        let table = Self { refs, wraps };
        table.check()?;
        Ok(table)
    }
}

fn parse_reference(row: &crate::cursor::Fixed<'_>) -> Result<Reference, Corrupt> {
    row.zero(reference::ZERO)?;
    Ok(Reference {
        object: ObjectId::from_bytes(row.array(reference::OBJECT)?),
        kind: ObjectType::parse(row.u8(reference::TYPE)?)?,
        stored: row.u64(reference::STORED)?,
        digest: Digest::from_bytes(row.array(reference::DIGEST)?),
        salt: row.array(reference::SALT)?,
        wrap: row.u16(reference::WRAP)?,
        live_units: row.u32(reference::LIVE_UNITS)?,
        total_units: row.u32(reference::TOTAL_UNITS)?,
        live_nodes: row.u32(reference::LIVE_NODES)?,
    })
}

#[cfg(test)]
mod tests;
