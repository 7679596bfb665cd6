#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, and says where")]

use super::*;

const PAGE: u32 = 512;

fn size() -> PageSize {
    PageSize::try_from(PAGE).unwrap()
}

/// Writes logs as SQLite does, for both byte orders.
struct Writer {
    order: ByteOrder,
    salts: Salts,
    checksum: Checksum,
    bytes: Vec<u8>,
    frames: u32,
}

impl Writer {
    fn begin(order: ByteOrder, salts: [u8; 8]) -> Self {
        let magic = if order == ByteOrder::Big { MAGIC | 1 } else { MAGIC };
        let mut bytes: Vec<u8> = [magic, VERSION, PAGE, 5].iter().flat_map(|w| w.to_be_bytes()).collect();
        bytes.extend(salts);
        let checksum = Checksum::default().over(order, &bytes);
        bytes.extend(checksum.first.to_be_bytes());
        bytes.extend(checksum.second.to_be_bytes());
        Self { order, salts: Salts(salts), checksum, bytes, frames: 0 }
    }

    fn frame(mut self, page: u32, commit: u32, fill: u8) -> Self {
        let mut head = Vec::new();
        head.extend(page.to_be_bytes());
        head.extend(commit.to_be_bytes());
        let data = vec![fill; PAGE as usize];
        self.checksum = self.checksum.over(self.order, &head).over(self.order, &data);
        head.extend(self.salts.0);
        head.extend(self.checksum.first.to_be_bytes());
        head.extend(self.checksum.second.to_be_bytes());
        self.bytes.extend(head);
        self.bytes.extend(data);
        self.frames += 1;
        self
    }

    fn pin(&self) -> WalPin {
        WalPin { frames: self.frames, page_size: size(), salts: self.salts, checksum: self.checksum }
    }
}

fn sample(order: ByteOrder) -> Writer {
    Writer::begin(order, [1; 8]).frame(1, 0, 1).frame(2, 3, 2).frame(2, 3, 3)
}

fn page(n: u32) -> PageNo {
    PageNo::new(n).unwrap()
}

#[test]
fn both_byte_orders_are_followed_to_the_pin() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let log = sample(order);
        let map = map_pinned(log.bytes.as_slice(), &log.pin()).unwrap();
        assert_eq!(map.pages(), 2);
        assert_eq!(map.offset_of(page(1)), Some(WalHeader::page_offset(size(), 1)));
        assert_eq!(map.offset_of(page(2)), Some(WalHeader::page_offset(size(), 3)));
        assert_eq!(map.offset_of(page(3)), None);
    }
}

#[test]
fn frames_behind_the_pin_are_not_looked_at() {
    let early = sample(ByteOrder::Little);
    let pin = early.pin();
    let log = early.frame(1, 9, 9);
    let map = map_pinned(log.bytes.as_slice(), &pin).unwrap();
    assert_eq!(map.offset_of(page(1)), Some(WalHeader::page_offset(size(), 1)));
}

#[test]
fn a_pin_is_refused_for_every_difference() {
    let log = sample(ByteOrder::Little);
    let fails = |pin: WalPin| map_pinned(log.bytes.as_slice(), &pin).unwrap_err();
    assert!(matches!(fails(WalPin { salts: Salts([2; 8]), ..log.pin() }), WalError::OtherGeneration));
    assert!(matches!(fails(WalPin { frames: 4, ..log.pin() }), WalError::FrameBroken { frame: 4, expected: 4 }));
    assert!(matches!(fails(WalPin { frames: 2, ..log.pin() }), WalError::OtherContent(2)));
    let other = PageSize::try_from(1024).unwrap();
    assert!(matches!(fails(WalPin { page_size: other, ..log.pin() }), WalError::OtherPageSize { .. }));
    let open = Writer::begin(ByteOrder::Little, [1; 8]).frame(1, 0, 1);
    assert!(matches!(map_pinned(open.bytes.as_slice(), &open.pin()), Err(WalError::NotACommit(1))));
}

#[test]
fn an_open_transaction_at_the_end_is_no_content() {
    let log = sample(ByteOrder::Big).frame(1, 0, 7).frame(5, 0, 7);
    let found = map_committed(log.bytes.as_slice()).unwrap().unwrap();
    assert_eq!((found.frames, found.page_count, found.map.pages()), (3, 3, 2));
    assert_eq!(found.map.offset_of(page(5)), None);
}

#[test]
fn a_log_without_a_commit_holds_nothing() {
    for bytes in [Vec::new(), vec![0; 31], vec![7; 4096], Writer::begin(ByteOrder::Big, [1; 8]).frame(1, 0, 1).bytes] {
        assert_eq!(map_committed(bytes.as_slice()).unwrap(), None);
    }
}

#[test]
fn frames_of_an_older_generation_end_the_log() {
    let mut log = sample(ByteOrder::Little).bytes;
    let old = Writer::begin(ByteOrder::Little, [9; 8]).frame(1, 0, 1).frame(2, 3, 2).frame(2, 3, 3).frame(1, 4, 4);
    log.extend(&old.bytes[log.len()..]);
    assert_eq!(map_committed(log.as_slice()).unwrap().unwrap().frames, 3);
}

#[test]
fn a_version_from_the_future_is_not_taken_for_emptiness() {
    let mut log = sample(ByteOrder::Little).bytes;
    log[7] ^= 1;
    assert!(matches!(map_committed(log.as_slice()), Err(WalError::UnknownVersion(_))));
}

/// Logs of transactions of one to four frames, enough to see every position of a commit.
fn logs() -> Vec<Writer> {
    let shapes: [&[u32]; 5] = [&[], &[0], &[6], &[0, 6, 0], &[6, 0, 6, 6]];
    let begin = |order, shape: &[u32]| {
        shape
            .iter()
            .zip(1..)
            .fold(Writer::begin(order, [3; 8]), |log, (commit, n)| log.frame(n % 3 + 1, *commit, n as u8))
    };
    [ByteOrder::Little, ByteOrder::Big].iter().flat_map(|order| shapes.map(|shape| begin(*order, shape))).collect()
}

fn whole_frames(bytes: usize) -> u32 {
    (bytes.saturating_sub(HEADER_LEN) / (FRAME_HEADER_LEN + PAGE as usize)) as u32
}

#[test]
fn damage_never_yields_a_frame_at_or_behind_it() {
    for log in logs() {
        for at in 0..log.bytes.len() {
            let mut bytes = log.bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            if let Ok(Some(found)) = map_committed(bytes.as_slice()) {
                assert!(at >= HEADER_LEN && found.frames <= whole_frames(at), "byte {at}");
            }
            if log.frames > 0 {
                assert!(map_pinned(bytes.as_slice(), &log.pin()).is_err(), "byte {at}");
            }
        }
    }
}

#[test]
fn any_cut_stops_at_the_last_whole_commit() {
    let frames = |bytes: &[u8]| map_committed(bytes).unwrap().map_or(0, |found| found.frames);
    for log in logs() {
        let all = frames(&log.bytes);
        for cut in 0..=log.bytes.len() {
            let found = frames(&log.bytes[..cut]);
            assert!(found <= whole_frames(cut), "cut at {cut}");
            assert!(whole_frames(cut) < all || found == all, "cut at {cut}");
        }
    }
}

/// The frames `read_on` hands out, and what it finds.
fn tail(log: &[u8], from: &WalPlace, to: Option<u32>) -> (Vec<(u32, u32, u8)>, Tail) {
    let mut taken = Vec::new();
    let behind = log.get(from.offset() as usize..).unwrap_or_default();
    let tail = read_on(behind, from, to, &mut |number, page, bytes| {
        taken.push((number, page, bytes[0]));
        Ok(())
    });
    (taken, tail.unwrap())
}

#[test]
fn reading_on_gives_each_commit_once_from_any_place() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let log = sample(order).frame(3, 0, 4).frame(1, 4, 5).frame(9, 0, 6);
        let begin = WalPlace::begin(WalHeader::parse(&log.bytes).unwrap());
        let (taken, all) = tail(&log.bytes, &begin, None);
        assert_eq!(taken.len(), 6, "frames of an open transaction are shown, and no commit covers them");
        let commits: Vec<_> = all.commits.iter().map(|c| (c.first, c.last, c.page_count)).collect();
        assert_eq!(commits, [(1, 2, 3), (3, 3, 3), (4, 5, 4)]);
        assert_eq!(all.end.frames, 5);
        let (_, first) = tail(&log.bytes, &begin, Some(2));
        assert_eq!(first.commits.len(), 1);
        let (taken, rest) = tail(&log.bytes, &first.end, None);
        assert_eq!((taken[0], rest.commits.len(), rest.end), ((3, 2, 3), 2, all.end));
        let (_, none) = tail(&log.bytes, &all.end, None);
        assert_eq!((none.commits.len(), none.end), (0, all.end));
    }
}

/// The same page at the same place, whole and with a valid checksum of its own generation.
#[test]
fn frames_of_another_generation_behind_the_place_are_not_read() {
    let log = sample(ByteOrder::Little);
    let begin = WalPlace::begin(WalHeader::parse(&log.bytes).unwrap());
    let (_, first) = tail(&log.bytes, &begin, Some(2));
    let other = Writer::begin(ByteOrder::Little, [2; 8]).frame(1, 0, 1).frame(2, 3, 2).frame(2, 3, 3);
    let mut spliced = log.bytes.clone();
    let at = first.end.offset() as usize;
    spliced[at..].copy_from_slice(&other.bytes[at..]);
    assert_eq!(tail(&spliced, &first.end, None).1.commits, []);
    let mut chain = first.end;
    chain.checksum.first ^= 1;
    assert_eq!(tail(&log.bytes, &chain, None).1.commits, [], "another chain does not go on here");
}
