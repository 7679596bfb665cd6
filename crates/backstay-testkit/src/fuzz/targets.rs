//! The parsers of foreign bytes, and what must hold of each beyond not falling: what parses is written
//! again as it was read, or at least as something that reads the same.

use super::Target;
use backstay_format::facts::{
    self, Audit, Branch, Conf, Enrolment, Lease, Log, Manifest, Mark, Prune, RollUp, SealedManifest, Stream,
};
use backstay_format::layout::header;
use backstay_format::object::{Ending, Front, Object};
use backstay_format::sqlite::btree::TreeKind;
use backstay_format::sqlite::walk::{PageSource, Walker};
use backstay_format::sqlite::{guess, header::DatabaseHeader, wal};
use backstay_format::table::Table;
use backstay_format::tree::{Leaf, Node};
use backstay_format::{FramePlace, Header, directory, log};
use backstay_model::{ByteLen, Label, Moment, RepoId, SourceName};
use backstay_store::Key;
use backstay_store::keyfile::KeyFile;
use backstay_store::keys::{self, SnapshotName};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Every parser of foreign bytes. A new one needs a line here and a seed in `corpus/<name>/`.
pub const TARGETS: &[Target] = &[
    Target { name: "source-name", run: source_name },
    Target { name: "object", run: |bytes| with_right_check(bytes, object) },
    Target { name: "front", run: |bytes| with_right_check(bytes, front) },
    Target { name: "table", run: table },
    Target { name: "leaf", run: leaf },
    Target { name: "node", run: node },
    Target { name: "directory", run: pack_directory },
    Target { name: "log-records", run: log_records },
    Target { name: "ltx", run: ltx },
    Target { name: "facts", run: every_facts },
    Target { name: "key-file", run: key_file },
    Target { name: "bundle", run: bundle },
    Target { name: "store-key", run: store_key },
    Target { name: "remembered", run: remembered },
    Target { name: "sqlite-header", run: sqlite_header },
    Target { name: "sqlite-wal", run: sqlite_wal },
    Target { name: "sqlite-walk", run: sqlite_walk },
];

/// What parses must print as it was read.
fn source_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = text.parse::<SourceName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(label) = text.parse::<Label>() {
        assert_eq!(label.to_string().parse::<Label>().ok().as_ref(), Some(&label));
    }
    let suggested = SourceName::suggest(text);
    assert_eq!(suggested.to_string().parse::<SourceName>().ok(), Some(suggested));
}

/// Runs the input as it is, and with the header's checksum made right: few mutations get past it.
fn with_right_check(bytes: &[u8], run: fn(&[u8])) {
    run(bytes);
    let mut bytes = bytes.to_vec();
    let Some(wrap_len) = bytes.get(header::WRAP_LEN).and_then(|field| field.try_into().ok()).map(u32::from_le_bytes)
    else {
        return;
    };
    let wrap = header::LEN..header::LEN.saturating_add(wrap_len as usize);
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytes.get(..header::CHECK.start).unwrap_or_default());
    hasher.update(bytes.get(wrap).unwrap_or_default());
    if let Some(check) = bytes.get_mut(header::CHECK) {
        check.copy_from_slice(hasher.finalize().as_bytes().split_at(16).0);
    }
    run(&bytes);
}

/// Version 1 has one way to write a header: what was read is what would be written.
fn object(bytes: &[u8]) {
    let Ok(object) = Object::parse(bytes) else { return };
    let header = object.front.header.encode();
    assert!(bytes.starts_with(&header));
    let mut end = object.front.len + object.table.len();
    for place in &object.frames {
        assert_eq!(place.offset as usize, end, "frames lie side by side");
        end += object.frame(place).expect("a frame of a parsed object").len();
    }
    assert_eq!(bytes.len(), end + object.frames.len() * 8 + 24, "every byte is accounted for");
    let index = bytes.split_at(end).1;
    let of_the_end = object.front.ending(bytes.len() as u64, index).expect("its end says the same");
    assert_eq!(of_the_end, Ending::Frames(object.frames.clone()));
    let short = object.front.ending(bytes.len() as u64, index.split_at(object.frames.len().min(1)).1);
    assert!(object.frames.is_empty() || short == Ok(Ending::Longer(index.len() as u64)));
}

fn front(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    assert!(bytes.starts_with(&header.encode()));
    match Front::parse(bytes) {
        Ok(front) => {
            assert_eq!((front.len, &front.header), (header.front_len(), &header));
            // Whatever the rest is, it is taken for an end or refused.
            let _ = front.ending(bytes.len() as u64, bytes.split_at(front.len).1);
        }
        Err(_) => assert!(bytes.len() < header.front_len(), "a good header lacks only what was cut off"),
    }
}

fn table(bytes: &[u8]) {
    let Ok(table) = Table::parse(bytes) else { return };
    assert_eq!(table.encode(), bytes);
    for reference in table.refs() {
        assert_eq!(table.find(&reference.object), Some(reference));
        assert!(table.wrap(reference).is_some());
    }
}

fn leaf(bytes: &[u8]) {
    let Ok(leaf) = Leaf::parse(bytes) else { return };
    assert_eq!(Leaf::parse(&leaf.encode()).as_ref(), Ok(&leaf));
    for unit in 0..leaf.units() {
        let (run, slot) = leaf.find(unit).expect("a leaf has every unit up to its count");
        assert!(run.first <= unit && slot >= run.slot);
    }
    assert!(leaf.find(leaf.units()).is_none());
}

fn node(bytes: &[u8]) {
    let Ok(node) = Node::parse(bytes) else { return };
    assert_eq!(Node::parse(&node.encode()).as_ref(), Ok(&node));
}

/// Whatever it says, no page is longer, earlier or later than it may be.
fn ltx(bytes: &[u8]) {
    let Ok(mut reader) = backstay_format::ltx::Reader::open(bytes) else { return };
    let header = *reader.header();
    let mut page = vec![0; header.page_size.get() as usize];
    let mut last = 0;
    while let Ok(Some(number)) = reader.next_page(&mut page) {
        assert!(number > last && number <= header.commit && number != header.lock_page());
        last = number;
    }
}

fn pack_directory(bytes: &[u8]) {
    if let Ok(frames) = directory::parse(bytes) {
        assert_eq!(directory::encode(&frames), bytes);
    }
}

/// The images of what was read fit frames of their sizes, and no others.
fn log_records(bytes: &[u8]) {
    let Ok(records) = log::parse(bytes) else { return };
    assert_eq!(log::encode(&records), bytes);
    let sizes: Vec<u32> = records.iter().flat_map(|r| r.pages.iter().map(|_| r.page_size.get())).collect();
    let frame = |raw| FramePlace { frame: 0, offset: 0, stored: 0, raw };
    let mut frames: Vec<FramePlace> = sizes.iter().map(|size| frame(*size)).collect();
    frames.push(frame(0));
    let laid = log::layout_of(&records, &frames).expect("each image in a frame of its own");
    assert_eq!(laid.len(), sizes.len());
    frames.push(frame(512));
    assert!(log::layout_of(&records, &frames).is_err());
}

/// What is read as facts is written in one canonical way, which reads as the same facts.
fn every_facts(bytes: &[u8]) {
    fn each<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
        let Ok(read) = facts::parse::<T>("facts", bytes) else { return };
        let canonical = facts::encode(&read);
        let again = facts::parse::<T>("facts", &canonical).expect("what was written is read");
        assert_eq!(facts::encode(&again), canonical);
    }
    each::<Conf>(bytes);
    each::<Branch>(bytes);
    each::<Manifest>(bytes);
    each::<SealedManifest>(bytes);
    each::<Stream>(bytes);
    each::<Log>(bytes);
    each::<Mark>(bytes);
    each::<Audit>(bytes);
    each::<Prune>(bytes);
    each::<Lease>(bytes);
    each::<Enrolment>(bytes);
    each::<RollUp>(bytes);
    if let Ok(log) = Log::parse(bytes) {
        assert!(log.leaves.is_empty() || log.leaves.iter().all(|one| log.onward().of(&one.source) == Some(one.next)));
        assert!(log.leaves.is_empty() || log.onward().all().count() == log.leaves.len() + 1);
    }
    if let Ok(rolled) = RollUp::parse(bytes) {
        assert!(rolled.first < rolled.last && rolled.ends.len() == rolled.spans.len());
    }
    if let Ok(asked) = Enrolment::parse(bytes) {
        assert_eq!(Enrolment::parse(&asked.encode()), Ok(asked));
    }
    if let Ok(stream) = facts::parse::<Stream>("facts", bytes) {
        let _ = stream.shape();
    }
}

fn key_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(file) = KeyFile::parse(text) else { return };
    if file.ssh.is_some() {
        return;
    }
    let made = Moment::from_millis(0).expect("the epoch is in range");
    let again = KeyFile::parse(&file.render(RepoId::ZERO, made)).expect("our own key file");
    let public = |file: &KeyFile| {
        let signers = [&file.root, &file.signer].map(|key| key.as_ref().map(|key| key.public()));
        (signers, file.identities().iter().map(|identity| identity.secret_text()).collect::<Vec<_>>())
    };
    assert_eq!(public(&again), public(&file));
}

/// A name that is read as something is that thing's only name.
fn remembered(bytes: &[u8]) {
    let entries = backstay_store::remember::decodes(bytes);
    // The smallest entry is a key of one byte without any content.
    assert!(entries * 26 <= bytes.len(), "{entries} entries out of {} bytes", bytes.len());
}

/// There is one way to write it.
fn bundle(bytes: &[u8]) {
    let Ok(items) = backstay_format::bundle::parse(bytes) else { return };
    assert_eq!(backstay_format::bundle::encode(items.iter().copied()), bytes);
    assert!(items.is_sorted_by(|a, b| a.name < b.name));
}

fn store_key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(key) = Key::parse(text) else { return };
    assert_eq!(key.as_str(), text);
    if let keys::Place::RollUp(name) = keys::Place::of(&key) {
        assert!(name.is_rolled() && name.key() == key);
    }
    if let keys::Place::Bundle(name) = keys::Place::of(&key) {
        assert!(name.first <= name.last && name.key() == key);
    }
    let source: SourceName = "shop".parse().expect("a legal name");
    if let Some(name) = SnapshotName::parse(&source, &key) {
        assert_eq!(name.key(), key);
    }
    if let Some(id) = keys::parse_pack(&source, &key) {
        assert_eq!(keys::pack(&source, &id), key);
    }
    if let Some((snapshot, kind, id)) = keys::parse_mark(&source, &key) {
        assert_eq!(keys::mark(&source, &snapshot, kind, &id), key);
    }
    if let Some((height, name)) = keys::parse_notice(&source, &key) {
        assert_eq!(keys::notice(&source, height, name), key);
        assert_eq!(keys::noticed(&key), Some(keys::mark(&source, &name.0, name.1, &name.2)));
    }
    if let Some(number) = keys::slot_number(&key) {
        assert!(text.ends_with(&format!("{number:016x}")));
    }
}

fn sqlite_header(bytes: &[u8]) {
    for len in [bytes.len() as u64, 0, 512, u64::MAX] {
        if let Ok(header) = DatabaseHeader::parse(bytes, ByteLen::new(len)) {
            assert!(header.page_size.get() - u32::from(header.reserved) >= 480);
            assert!(header.trusted_page_count().is_none_or(|count| count > 0));
        }
    }
}

/// What is found committed is what a transaction pinned at its end would be shown.
fn sqlite_wal(bytes: &[u8]) {
    let Ok(Some(found)) = wal::map_committed(bytes) else { return };
    let header = found.header;
    let frame = wal::FRAME_HEADER_LEN as u64 + header.page_size.bytes();
    assert!(wal::HEADER_LEN as u64 + u64::from(found.frames) * frame <= bytes.len() as u64);
    assert!(found.map.pages() <= found.frames as usize);
    let pin = wal::WalPin {
        frames: found.frames,
        page_size: header.page_size,
        salts: header.salts,
        checksum: found.checksum,
    };
    let pinned = wal::map_pinned(bytes, &pin).expect("the log was walked a moment ago");
    assert_eq!(pinned, found.map);
    let begin = wal::WalPlace::begin(header);
    let behind = bytes.get(wal::HEADER_LEN..).unwrap_or_default();
    let tail = wal::read_on(behind, &begin, None, &mut |_, _, _| Ok(())).expect("memory can be read");
    assert_eq!((tail.end.frames, tail.end.checksum), (found.frames, found.checksum));
    assert_eq!(tail.commits.last().map(|commit| commit.page_count), Some(found.page_count));
}

/// A file in memory, its last page filled up with zeros.
struct Pages<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl PageSource for Pages<'_> {
    fn pages(&self) -> u32 {
        self.bytes.len().div_ceil(self.size) as u32
    }
    fn read(&self, page: u32, out: &mut [u8]) -> bool {
        let from = (page as usize).saturating_sub(1) * self.size;
        let found = self.bytes.get(from..self.bytes.len().min(from + self.size)).unwrap_or_default();
        out.fill(0);
        out.iter_mut().zip(found).for_each(|(out, found)| *out = *found);
        page != 0 && !found.is_empty()
    }
}

/// Every page is tried as the root of either kind of tree; what is found is no more than is there.
fn sqlite_walk(bytes: &[u8]) {
    let Some(likeness) = guess::likeness(bytes, ByteLen::new(bytes.len() as u64), None) else { return };
    let pages = Pages { bytes, size: likeness.shape.size.get() as usize };
    let mut walker = Walker::new(&pages, likeness.shape);
    let mut count = |row: &backstay_format::sqlite::walk::Row<'_>| {
        assert!(row.page >= 1 && row.page <= pages.pages() && row.values.len() <= 32_767);
        Ok::<(), ()>(())
    };
    for root in 0..pages.pages().min(16) + 2 {
        for kind in [TreeKind::Table, TreeKind::Index] {
            let met = walker.tree(root, kind, &mut count).expect("nobody stops it");
            assert!(met.leaves <= u64::from(pages.pages()));
            assert!(met.rows <= u64::from(pages.pages()) * pages.size as u64 / 2);
        }
    }
    walker.free_list(likeness.free_list);
    for orphan in walker.orphans() {
        walker.orphan(&orphan, &mut count).expect("nobody stops it");
    }
}
