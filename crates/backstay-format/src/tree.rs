//! The map of a stream: which frame holds each unit, as a tree of shared leaves.
//!
//! A leaf maps 512 consecutive units; an inner node points at 512 nodes one level down; a manifest
//! carries only the root. Nodes lie in pack frames, many to a frame, so an unchanged leaf is
//! referenced where it already is and any manifest may go. A leaf covers its units exactly: no gap,
//! no overlap, checked on every parse.

use crate::Corrupt;
use crate::cursor::{Cursor, Fixed, Writer};
use crate::layout::{self, FAN_OUT, LEVELS_MAX, child, leaf, node, run};
use crate::object::FramePlace;
use backstay_model::{ObjectId, UnitSize};

const LEAF: &str = "a map leaf";
const NODE: &str = "a map node";

/// Consecutive units of a leaf in consecutive slots of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first unit, counted from the leaf's beginning.
    pub first: u16,
    pub count: u16,
    pub object: ObjectId,
    /// Which unit of the frame the first one is.
    pub slot: u16,
    pub place: FramePlace,
}

impl Run {
    /// Every unit but the frame's last is whole, so the last slot's beginning must lie inside the frame.
    fn check_slots(&self, unit: u32) -> Result<(), Corrupt> {
        let last = u64::from(self.slot) + u64::from(self.count).saturating_sub(1);
        if last * u64::from(unit) < u64::from(self.place.raw) && last <= u64::from(u16::MAX) {
            return Ok(());
        }
        Err(Corrupt::Rule { what: LEAF, rule: "a run lies inside its frame" })
    }
}

/// Where up to 512 consecutive units lie. An empty stream has none: its root is an empty frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leaf {
    runs: Vec<Run>,
}

/// Where an encoded node lies: inside a frame of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRef {
    pub object: ObjectId,
    pub place: FramePlace,
    pub at: u32,
    pub len: u32,
}

/// An inner node: its level (1 is right above the leaves) and its children in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub level: u8,
    pub children: Vec<NodeRef>,
}

impl Leaf {
    /// A leaf over runs in order; neighbours that continue each other are joined.
    pub fn new(runs: impl IntoIterator<Item = Run>) -> Result<Self, Corrupt> {
        let mut joined: Vec<Run> = Vec::new();
        for next in runs {
            match joined.last_mut() {
                Some(last) if continues(last, &next) => last.count += next.count,
                _ => joined.push(next),
            }
        }
        let leaf = Self { runs: joined };
        leaf.check(leaf.units())?;
        Ok(leaf)
    }

    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub fn units(&self) -> u16 {
        self.runs.last().map_or(0, |run| run.first.saturating_add(run.count))
    }

    /// Where unit `unit` of the leaf lies: its run, and its slot in the run's frame.
    pub fn find(&self, unit: u16) -> Option<(&Run, u16)> {
        let at = self.runs.partition_point(|run| run.first <= unit).checked_sub(1)?;
        let run = self.runs.get(at).filter(|run| unit - run.first < run.count)?;
        Some((run, run.slot + (unit - run.first)))
    }

    /// What only the reader of a whole tree can check: that the leaf holds the units its place in the
    /// tree says, and that its runs fit their frames at the stream's own unit size.
    pub fn check_shape(&self, units: u64, unit: UnitSize) -> Result<(), Corrupt> {
        if u64::from(self.units()) != units {
            return Err(Corrupt::Rule { what: LEAF, rule: "it holds as many units as its place in the tree says" });
        }
        self.runs.iter().try_for_each(|run| run.check_slots(unit.get()))
    }

    fn check(&self, units: u16) -> Result<(), Corrupt> {
        let mut next = 0u16;
        for run in &self.runs {
            if run.first != next || run.count == 0 {
                return Err(Corrupt::Rule { what: LEAF, rule: "runs follow one another without gap or overlap" });
            }
            next = run.first.saturating_add(run.count);
            check_place(LEAF, &run.place)?;
            run.check_slots(UnitSize::MIN)?;
        }
        if next != units || usize::from(units) > FAN_OUT || units == 0 {
            return Err(Corrupt::Rule { what: LEAF, rule: "runs cover the leaf's units exactly" });
        }
        Ok(())
    }

    pub fn encode(&self) -> Vec<u8> {
        let objects = Objects::of(self.runs.iter().map(|run| run.object));
        let mut out = Vec::with_capacity(leaf::LEN + objects.0.len() * 16 + self.runs.len() * run::LEN);
        let mut w = Writer::begin(&mut out, leaf::LEN);
        w.u16(leaf::UNITS, self.units()).u16(leaf::OBJECTS, objects.0.len() as u16);
        w.u16(leaf::RUNS, self.runs.len() as u16);
        objects.write(&mut out);
        for r in &self.runs {
            let mut w = Writer::begin(&mut out, run::LEN);
            w.u16(run::FIRST, r.first).u16(run::COUNT, r.count).u16(run::OBJECT, objects.index(&r.object));
            w.u16(run::SLOT, r.slot).u32(run::FRAME, r.place.frame).u32(run::OFFSET, r.place.offset);
            w.u32(run::STORED, r.place.stored).u32(run::RAW, r.place.raw);
        }
        out
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut cursor = Cursor::new(LEAF, bytes);
        let head = cursor.fixed(leaf::LEN)?;
        head.zero(leaf::ZERO)?;
        let objects = Objects::parse(LEAF, &mut cursor, head.u16(leaf::OBJECTS)?)?;
        let count = head.u16(leaf::RUNS)?;
        let mut runs = Vec::with_capacity(usize::from(count).min(FAN_OUT));
        for _ in 0..count {
            let row = cursor.fixed(run::LEN)?;
            runs.push(Run {
                first: row.u16(run::FIRST)?,
                count: row.u16(run::COUNT)?,
                object: objects.get(LEAF, row.u16(run::OBJECT)?)?,
                slot: row.u16(run::SLOT)?,
                place: FramePlace {
                    frame: row.u32(run::FRAME)?,
                    offset: row.u32(run::OFFSET)?,
                    stored: row.u32(run::STORED)?,
                    raw: row.u32(run::RAW)?,
                },
            });
        }
        cursor.end()?;
        let leaf = Self { runs };
        leaf.check(head.u16(leaf::UNITS)?)?;
        Ok(leaf)
    }
}

fn continues(last: &Run, next: &Run) -> bool {
    last.object == next.object
        && last.place == next.place
        && last.first.checked_add(last.count) == Some(next.first)
        && last.count.checked_add(next.count).is_some()
        && last.slot.checked_add(last.count) == Some(next.slot)
}

fn check_place(what: &'static str, place: &FramePlace) -> Result<(), Corrupt> {
    let (raw, stored) = (place.raw as usize, place.stored as usize);
    let fits = raw <= layout::FRAME_RAW_MAX
        && (1..=layout::FRAME_STORED_MAX).contains(&stored)
        && place.range().end <= layout::OBJECT_MAX as u64;
    if fits { Ok(()) } else { Err(Corrupt::Rule { what, rule: "a frame has a possible length and place" }) }
}

impl Node {
    /// What only the reader of a whole tree can check: the node is of the level its place says and has
    /// exactly the children that `units` units need.
    pub fn check_shape(&self, level: u8, units: u64) -> Result<(), Corrupt> {
        if self.level == level && units.div_ceil(units_below(level)) == self.children.len() as u64 {
            return Ok(());
        }
        Err(Corrupt::Rule { what: NODE, rule: "it has the level and the children its place in the tree says" })
    }

    pub fn encode(&self) -> Vec<u8> {
        let objects = Objects::of(self.children.iter().map(|c| c.object));
        let mut out = Vec::with_capacity(node::LEN + objects.0.len() * 16 + self.children.len() * child::LEN);
        let mut w = Writer::begin(&mut out, node::LEN);
        w.u16(node::CHILDREN, self.children.len() as u16).u16(node::OBJECTS, objects.0.len() as u16);
        w.u8(node::LEVEL, self.level);
        objects.write(&mut out);
        for c in &self.children {
            let mut w = Writer::begin(&mut out, child::LEN);
            w.u16(child::OBJECT, objects.index(&c.object)).u32(child::FRAME, c.place.frame);
            w.u32(child::OFFSET, c.place.offset).u32(child::STORED, c.place.stored);
            w.u32(child::RAW, c.place.raw).u32(child::AT, c.at).u32(child::LEN_, c.len);
        }
        out
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut cursor = Cursor::new(NODE, bytes);
        let head = cursor.fixed(node::LEN)?;
        head.zero(node::ZERO)?;
        let (count, level) = (head.u16(node::CHILDREN)?, head.u8(node::LEVEL)?);
        if !(1..=FAN_OUT).contains(&usize::from(count)) || !(1..=LEVELS_MAX).contains(&level) {
            return Err(Corrupt::Rule { what: NODE, rule: "1 to 512 children, 1 to 4 levels" });
        }
        let objects = Objects::parse(NODE, &mut cursor, head.u16(node::OBJECTS)?)?;
        let mut children = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            children.push(parse_child(&cursor.fixed(child::LEN)?, &objects)?);
        }
        cursor.end()?;
        Ok(Self { level, children })
    }
}

fn parse_child(row: &Fixed<'_>, objects: &Objects) -> Result<NodeRef, Corrupt> {
    row.zero(child::ZERO)?;
    let child = NodeRef {
        object: objects.get(NODE, row.u16(child::OBJECT)?)?,
        place: FramePlace {
            frame: row.u32(child::FRAME)?,
            offset: row.u32(child::OFFSET)?,
            stored: row.u32(child::STORED)?,
            raw: row.u32(child::RAW)?,
        },
        at: row.u32(child::AT)?,
        len: row.u32(child::LEN_)?,
    };
    check_place(NODE, &child.place)?;
    let end = u64::from(child.at) + u64::from(child.len);
    if end > u64::from(child.place.raw) || child.len == 0 {
        return Err(Corrupt::Rule { what: NODE, rule: "a child lies inside its frame" });
    }
    Ok(child)
}

/// The objects a node names, each once, in order of id: entries refer to them by their place.
struct Objects(Vec<ObjectId>);

impl Objects {
    fn of(ids: impl Iterator<Item = ObjectId>) -> Self {
        let mut ids: Vec<ObjectId> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids)
    }

    fn index(&self, id: &ObjectId) -> u16 {
        self.0.binary_search(id).expect("the table was made from these entries") as u16
    }

    fn get(&self, what: &'static str, at: u16) -> Result<ObjectId, Corrupt> {
        let rule = Corrupt::Rule { what, rule: "entries name objects of the node's own list" };
        self.0.get(usize::from(at)).copied().ok_or(rule)
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|id| out.extend_from_slice(id.as_bytes()));
    }

    fn parse(what: &'static str, cursor: &mut Cursor<'_>, count: u16) -> Result<Self, Corrupt> {
        let mut ids = Vec::with_capacity(usize::from(count).min(cursor.rest() / ObjectId::LEN));
        for _ in 0..count {
            ids.push(ObjectId::from_bytes(cursor.fixed(ObjectId::LEN)?.array(0..ObjectId::LEN)?));
        }
        if !ids.is_sorted_by(|a, b| a < b) {
            return Err(Corrupt::Rule { what, rule: "objects are sorted and named once" });
        }
        Ok(Self(ids))
    }
}

/// How many units one child of a node at `level` covers when it is full.
pub fn units_below(level: u8) -> u64 {
    (FAN_OUT as u64).saturating_pow(u32::from(level))
}

/// How many levels of inner nodes stand above the leaves of a stream: 0 when one leaf is the root.
pub fn levels_for(units: u64) -> u8 {
    let mut leaves = units.div_ceil(FAN_OUT as u64);
    let mut levels = 0;
    while leaves > 1 {
        leaves = leaves.div_ceil(FAN_OUT as u64);
        levels += 1;
    }
    levels
}

#[cfg(test)]
mod tests;
