//! A pack's directory: the last frame of every pack, which says what the frames before it hold and
//! carries the fingerprint of each unit, once, beside the unit it belongs to.
//!
//! A host that lost its cache rebuilds the fingerprints of a snapshot from the map and these.

use crate::cursor::{Cursor, Writer};
use crate::layout::{directory, unit};
use crate::{Corrupt, Fingerprint};

const WHAT: &str = "a pack's directory";
const KIND_UNITS: u8 = 1;
const KIND_NODES: u8 = 2;

/// What one frame of a pack holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// Units of one stream, in slot order, with their numbers and fingerprints.
    Units { stream: u16, units: Vec<(u64, Fingerprint)> },
    /// Map nodes.
    Nodes,
}

pub fn encode(frames: &[Holding]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        let (kind, stream, units) = match frame {
            Holding::Units { stream, units } => (KIND_UNITS, *stream, units.as_slice()),
            Holding::Nodes => (KIND_NODES, 0, &[][..]),
        };
        let mut w = Writer::begin(&mut out, directory::LEN);
        w.u8(directory::KIND, kind).u16(directory::STREAM, stream).u32(directory::COUNT, units.len() as u32);
        for (number, fingerprint) in units {
            Writer::begin(&mut out, unit::LEN).u64(unit::NUMBER, *number).put(unit::FINGERPRINT, &fingerprint.0);
        }
    }
    out
}

pub fn parse(bytes: &[u8]) -> Result<Vec<Holding>, Corrupt> {
    let mut cursor = Cursor::new(WHAT, bytes);
    let mut frames = Vec::new();
    while cursor.rest() > 0 {
        let head = cursor.fixed(directory::LEN)?;
        head.zero(directory::ZERO)?;
        let (stream, count) = (head.u16(directory::STREAM)?, head.u32(directory::COUNT)?);
        frames.push(match head.u8(directory::KIND)? {
            KIND_UNITS => Holding::Units { stream, units: parse_units(&mut cursor, count)? },
            KIND_NODES if stream == 0 && count == 0 => Holding::Nodes,
            _ => return Err(Corrupt::Rule { what: WHAT, rule: "a frame holds units or nodes" }),
        });
    }
    Ok(frames)
}

fn parse_units(cursor: &mut Cursor<'_>, count: u32) -> Result<Vec<(u64, Fingerprint)>, Corrupt> {
    let mut units = Vec::with_capacity((count as usize).min(cursor.rest() / unit::LEN));
    for _ in 0..count {
        let row = cursor.fixed(unit::LEN)?;
        units.push((row.u64(unit::NUMBER)?, Fingerprint(row.array(unit::FINGERPRINT)?)));
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_round_trips_and_refuses_every_truncation() {
        let frames = vec![
            Holding::Units { stream: 0, units: vec![(0, Fingerprint([1; 16])), (u64::MAX, Fingerprint([2; 16]))] },
            Holding::Nodes,
        ];
        let bytes = encode(&frames);
        assert_eq!(parse(&bytes), Ok(frames.clone()));
        for cut in 0..bytes.len() {
            assert_ne!(parse(&bytes[..cut]).as_ref(), Ok(&frames), "cut at {cut}");
        }
    }

    #[test]
    fn a_huge_count_does_not_allocate() {
        let mut bytes = vec![KIND_UNITS, 0, 0, 0];
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(parse(&bytes), Err(Corrupt::Truncated { what: WHAT }));
    }
}
