//! What a snapshot says of itself to whoever asks it a question: the pages at which every search begins, and where the
//! interior pages below them lie.
//!
//! Found while the database is read: an interior page names its children, and one whose first child is an interior
//! page itself stands higher. What is taken for one and is none costs some bytes. What is said is the captured state:
//! a page is read once more, and stands there only if it has the fingerprint that was captured.

use crate::OpsError;
use crate::disk::At;
use crate::fingerprints::FingerprintFile;
use crate::map::NewMap;
use crate::scan::ReadAt;
use backstay_format::facts::{Opening, OpeningFrame, OpeningPage};
use backstay_format::fingerprint::UnitHasher;
use backstay_format::layout::FAN_OUT;
use backstay_format::table::Table;
use backstay_format::{Fingerprint, FramePlace};
use backstay_model::{ByteLen, ObjectId, PageSize, UnitSize};
use backstay_sqlite::lazy::children_of;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Bytes of all the pages that stand in the manifest itself.
const PAGES_MAX: usize = 64 << 10;
/// Pages of the schema among them.
const SCHEMA_MAX: usize = 4;
/// Further pages whose places are named.
const FRAMES_MAX: usize = 4096;
/// Deeper than any tree: 2^32 pages under pages with at least two children.
const HEIGHT_MAX: u8 = 32;

/// An interior page, and its first child.
pub type Interior = (u32, u32);

/// The interior pages among some bytes of a database that begin with a page.
pub fn interiors(first: u64, bytes: &[u8], page_size: PageSize) -> Vec<Interior> {
    let pages = bytes.chunks_exact(page_size.get() as usize).zip(first + 1..);
    let interior = |(bytes, page): (&[u8], u64)| {
        let page = u32::try_from(page).ok()?;
        Some((page, *children_of(page, bytes)?.first()?))
    };
    pages.filter_map(interior).collect()
}

/// The pages to put into the manifest, in this order, and those to name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Choice {
    stand: Vec<u32>,
    named: Vec<u32>,
}

/// The first page and what is right below it; then the higher the earlier.
fn choose(interiors: &[Interior], schema: &[u32], most: usize) -> Choice {
    let first_child: HashMap<u32, u32> = interiors.iter().copied().collect();
    let height = |page: u32| {
        let below = std::iter::successors(Some(page), |page| first_child.get(page).copied());
        below.take(HEIGHT_MAX.into()).take_while(|page| first_child.contains_key(page)).count()
    };
    let mut others: Vec<(usize, u32)> =
        interiors.iter().filter(|(page, _)| *page != 1).map(|(page, _)| (height(*page), *page)).collect();
    others.sort_unstable_by_key(|(height, page)| (std::cmp::Reverse(*height), *page));
    let high = others.iter().take_while(|(height, _)| *height > 1).map(|(_, page)| page);
    let schema = schema.iter().take(SCHEMA_MAX).filter(|page| !first_child.contains_key(page));
    let stand: Vec<u32> = std::iter::once(&1).chain(schema).chain(high).take(most).copied().collect();
    let named = others.iter().map(|(_, page)| *page).filter(|page| !stand.contains(page));
    Choice { named: named.take(FRAMES_MAX).collect(), stand }
}

/// What was found, before it is known where it will lie.
pub struct Found {
    unit: UnitSize,
    page_size: PageSize,
    choice: Choice,
    /// The units those pages stand in, as they were read.
    units: BTreeMap<u64, Vec<u8>>,
}

/// A database as it is being captured.
pub struct Of<'a> {
    pub read: &'a ReadAt<'a>,
    pub len: ByteLen,
    pub unit: UnitSize,
    pub page_size: PageSize,
}

impl Of<'_> {
    /// Reads the unit a page stands in, if it was not read before.
    fn unit_of(&self, page: u32, units: &mut BTreeMap<u64, Vec<u8>>) -> Result<(), OpsError> {
        let at = (u64::from(page) - 1) * self.page_size.bytes() / self.unit.bytes();
        let begin = at * self.unit.bytes();
        let len = self.unit.bytes().min(self.len.get().saturating_sub(begin)) as usize;
        if len > 0 && !units.contains_key(&at) {
            let mut bytes = vec![0; len];
            (self.read)(begin, &mut bytes)?;
            units.insert(at, bytes);
        }
        Ok(())
    }
}

impl Found {
    /// Reads the pages that will stand in the manifest.
    pub fn read(of: &Of<'_>, interiors: &[Interior]) -> Result<Self, OpsError> {
        let mut units = BTreeMap::new();
        of.unit_of(1, &mut units)?;
        let size = of.page_size.get() as usize;
        let schema = units.get(&0).and_then(|unit| children_of(1, unit.get(..size)?)).unwrap_or_default();
        let choice = choose(interiors, &schema, PAGES_MAX / size);
        for page in &choice.stand {
            of.unit_of(*page, &mut units)?;
        }
        Ok(Self { unit: of.unit, page_size: of.page_size, choice, units })
    }

    /// What is left of it once the captured state is known, and where the others lie.
    pub fn settled(self, hasher: &UnitHasher, seen: &FingerprintFile, map: &NewMap) -> Result<Settled, OpsError> {
        let mut sound = self.units;
        let mut read = Ok(());
        sound.retain(|unit, bytes| {
            let mut captured = [Fingerprint::default()];
            if read.is_ok() {
                read = seen.read(*unit, &mut captured);
            }
            captured == [hasher.fingerprint(bytes)]
        });
        read.at("read", Path::new("the fingerprint spool"))?;
        let size = self.page_size.get() as usize;
        let place = |page: u32| {
            let at = (u64::from(page) - 1) * self.page_size.bytes();
            (at / self.unit.bytes(), (at % self.unit.bytes()) as usize)
        };
        let stand = |page: &u32| {
            let (unit, within) = place(*page);
            Some(OpeningPage::new(*page, sound.get(&unit)?.get(within..within + size)?))
        };
        let pages = self.choice.stand.iter().filter_map(stand).collect();
        let mut named = Vec::new();
        for page in self.choice.named {
            let unit = place(page).0;
            let leaf = map.parts.leaf((unit / FAN_OUT as u64) as usize)?;
            let run = leaf.as_ref().and_then(|leaf| leaf.find((unit % FAN_OUT as u64) as u16));
            named.extend(run.map(|(run, _)| (page, run.object, run.place)));
        }
        Ok(Settled { pages, named })
    }
}

/// What was found of the captured state.
pub struct Settled {
    pages: Vec<OpeningPage>,
    named: Vec<(u32, ObjectId, FramePlace)>,
}

impl Settled {
    /// As it stands in a manifest with this refs table.
    pub fn facts(&self, table: &Table) -> Opening {
        let row = |object: &ObjectId| table.refs().iter().position(|row| row.object == *object);
        let frame = |(page, object, place): &(u32, ObjectId, FramePlace)| {
            let row = u32::try_from(row(object)?).ok()?;
            Some(OpeningFrame(*page, row, place.frame, place.offset, place.stored, place.raw))
        };
        Opening { pages: self.pages.clone(), frames: self.named.iter().filter_map(frame).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MapParts;
    use backstay_format::table::Reference;
    use backstay_format::tree::{Leaf, Run};
    use backstay_format::{FingerprintKey, ObjectType};
    use backstay_model::{Digest, FingerprintKeyId};
    use backstay_store::repo::Root;

    const PAGE: usize = 4096;

    fn interior(child: u32) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        bytes[0] = 5;
        bytes[8..12].copy_from_slice(&child.to_be_bytes());
        bytes
    }

    /// Three pages that lie in one frame, of an object in the second row.
    fn map() -> (NewMap, Table) {
        let place = FramePlace { frame: 1, offset: 500, stored: 900, raw: 3 * PAGE as u32 };
        let object = ObjectId::from_bytes([7; 16]);
        let leaf = Leaf::new([Run { first: 0, count: 3, object, slot: 0, place }]).expect("a leaf");
        let parts = MapParts { leaves: vec![leaf.encode()], nodes: Vec::new() };
        let row = |object| Reference {
            object,
            kind: ObjectType::Pack,
            stored: 9000,
            digest: Digest::ZERO,
            salt: [0; 32],
            wrap: 0,
            live_units: 3,
            total_units: 3,
            live_nodes: 0,
        };
        let table = Table::new(vec![row(object), row(ObjectId::from_bytes([3; 16]))], vec![vec![1]]).expect("a table");
        (NewMap { parts, root: Root::Leaf(leaf), levels: 0, live: HashMap::new() }, table)
    }

    #[test]
    fn a_page_that_is_not_what_was_captured_does_not_stand_in_the_manifest() {
        let size = PageSize::try_from(PAGE as u32).expect("a page size");
        let unit = UnitSize::for_pages(size);
        let mut file = [[0; PAGE], interior(3), interior(9)].concat();
        file[0] = 0x53;
        let hasher = FingerprintKey::new(FingerprintKeyId::from_bytes([1; 16]), [2; 32]).units();
        let folder = tempfile::tempdir().expect("a folder");
        let seen = FingerprintFile::fresh(folder.path(), "seen").expect("a spool");
        let captured: Vec<Fingerprint> = file.chunks(PAGE).map(|page| hasher.fingerprint(page)).collect();
        seen.write(0, &captured).expect("written");
        let read = |offset: u64, into: &mut [u8]| {
            into.copy_from_slice(&file[offset as usize..offset as usize + into.len()]);
            Ok(())
        };
        let of = Of { read: &read, len: ByteLen::new(file.len() as u64), unit, page_size: size };
        let found = interiors(0, &file, size);
        assert_eq!(found, [(2, 3), (3, 9)]);
        let (map, table) = map();
        let opening = |seen: &FingerprintFile| {
            let found = Found::read(&of, &found).expect("read");
            found.settled(&hasher, seen, &map).expect("settled").facts(&table)
        };
        let whole = opening(&seen);
        assert_eq!(whole.pages, [OpeningPage::new(1, &file[..PAGE]), OpeningPage::new(2, &file[PAGE..2 * PAGE])]);
        assert_eq!(whole.frames, [OpeningFrame(3, 1, 1, 500, 900, 3 * PAGE as u32)]);
        // Somebody wrote while it was read without a lock, and the page was taken once more.
        seen.write(1, &[hasher.fingerprint(&interior(4))]).expect("written");
        assert_eq!(opening(&seen).pages, whole.pages[..1]);
    }

    #[test]
    fn what_stands_higher_comes_first_and_within_bounds() {
        // 2 -> 10 -> 20 -> 30 and others beside them; 50 is a tree of one interior page.
        let interiors = [(20, 30), (21, 40), (10, 20), (11, 21), (2, 10), (50, 60)];
        let choice = choose(&interiors, &[7, 8], 64);
        assert_eq!(choice, Choice { stand: vec![1, 7, 8, 2, 10, 11], named: vec![20, 21, 50] });
        let choice = choose(&interiors, &[7, 8], 2);
        assert_eq!(choice, Choice { stand: vec![1, 7], named: vec![2, 10, 11, 20, 21, 50] });
        assert_eq!(choose(&[], &[], 16), Choice { stand: vec![1], named: vec![] });
        // Pages that name one another are no tree, and end.
        let circle = choose(&[(5, 6), (6, 5)], &[], 16);
        assert_eq!(circle.stand, [1, 5, 6]);
        let many: Vec<Interior> = (2..9000).map(|page| (page, 100_000 + page)).collect();
        assert_eq!(choose(&many, &[], 16).named.len(), FRAMES_MAX);
        let schema: Vec<u32> = (2..100).collect();
        assert_eq!(choose(&[(1, 2)], &schema, 64).stand, [1, 2, 3, 4, 5]);
    }
}
