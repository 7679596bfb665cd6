//! The write-ahead log: a header, then frames, each with one page and a running checksum.
//!
//! Owns the decision which frames of a `-wal` file are real. A frame counts only when its salts are
//! those of the header and its checksum continues the chain from the header through every frame
//! before it; frames count as content only up to a commit. The file behind the last commit is full
//! of old generations and half-written transactions, so this is the difference between a snapshot
//! and a corrupt one.
//!
//! It must never report a page from a frame that no commit covers. Memory grows with the number of
//! distinct pages in the log, at most eight bytes for each 536 bytes read.

use super::be32;
use backstay_model::{PageNo, PageSize};
use std::collections::HashMap;
use std::io::{self, Read};

#[cfg(test)]
mod tests;

pub const HEADER_LEN: usize = 32;
pub const FRAME_HEADER_LEN: usize = 24;

const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// The two random words that tell one generation of the log from the next, as they lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Salts(pub [u8; 8]);

/// The running checksum after a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checksum {
    pub first: u32,
    pub second: u32,
}

/// The byte order in which words enter the checksum: that of the machine which began the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
}

impl Checksum {
    /// Continues the chain over `bytes`, whose length is a multiple of eight.
    fn over(self, order: ByteOrder, bytes: &[u8]) -> Self {
        let word = |word: &[u8; 4]| match order {
            ByteOrder::Little => u32::from_le_bytes(*word),
            ByteOrder::Big => u32::from_be_bytes(*word),
        };
        let (words, _) = bytes.as_chunks::<4>();
        let (pairs, _) = words.as_chunks::<2>();
        let (mut first, mut second) = (self.first, self.second);
        for [a, b] in pairs {
            first = first.wrapping_add(word(a)).wrapping_add(second);
            second = second.wrapping_add(word(b)).wrapping_add(first);
        }
        Self { first, second }
    }
}

/// The first 32 bytes of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    pub page_size: PageSize,
    pub order: ByteOrder,
    /// Goes up by one at each checkpoint that restarts the log.
    pub sequence: u32,
    pub salts: Salts,
    pub checksum: Checksum,
}

/// Why a log is not what it was expected to be.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error("the log ends after {0} bytes, inside its header")]
    Truncated(u64),
    #[error("the log begins with {0:#010x}, which is not the magic of a log")]
    BadMagic(u32),
    #[error("the log has format version {0}, and 3007000 is the only one known")]
    UnknownVersion(u32),
    #[error("the log has a page size of {0}, which is not a power of two from 512 to 65536")]
    BadPageSize(u32),
    #[error("the checksum of the log header does not match")]
    HeaderChecksum,
    #[error("the log has pages of {found} bytes, and {expected} were expected")]
    OtherPageSize { found: u32, expected: u32 },
    #[error("the log was restarted: its salts are not the expected ones")]
    OtherGeneration,
    #[error("frame {frame} of {expected} is missing or its checksum does not match")]
    FrameBroken { frame: u32, expected: u32 },
    #[error("frame {0} continues the chain to a checksum that is not the expected one")]
    OtherContent(u32),
    #[error("frame {0} ends the expected range and is not a commit")]
    NotACommit(u32),
    #[error("read the log")]
    Io(#[from] io::Error),
}

impl WalHeader {
    pub fn parse(bytes: &[u8]) -> Result<Self, WalError> {
        let truncated = || WalError::Truncated(bytes.len() as u64);
        let head: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or_else(truncated)?;
        let word = |at: usize| be32(head, at).ok_or_else(truncated);
        let order = match word(0)? {
            MAGIC => ByteOrder::Little,
            magic if magic == MAGIC | 1 => ByteOrder::Big,
            other => return Err(WalError::BadMagic(other)),
        };
        let version = word(4)?;
        if version != VERSION {
            return Err(WalError::UnknownVersion(version));
        }
        let raw_size = word(8)?;
        let page_size = PageSize::try_from(raw_size).map_err(|_| WalError::BadPageSize(raw_size))?;
        let (summed, _) = head.split_at(HEADER_LEN - 8);
        let checksum = Checksum::default().over(order, summed);
        if (checksum != Checksum { first: word(24)?, second: word(28)? }) {
            return Err(WalError::HeaderChecksum);
        }
        let (_, salts) = summed.split_at(16);
        let salts = Salts(salts.try_into().map_err(|_| truncated())?);
        Ok(Self { page_size, order, sequence: word(12)?, salts, checksum })
    }

    /// Where frame `number` (from 1) has its page.
    pub fn page_offset(page_size: PageSize, number: u32) -> u64 {
        let frame = FRAME_HEADER_LEN as u64 + page_size.bytes();
        HEADER_LEN as u64 + u64::from(number.saturating_sub(1)) * frame + FRAME_HEADER_LEN as u64
    }
}

/// The exact end of a log that a read transaction sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPin {
    pub frames: u32,
    pub page_size: PageSize,
    pub salts: Salts,
    /// The running checksum after frame `frames`.
    pub checksum: Checksum,
}

/// For each page in the log, the frame that has its last version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameMap {
    page_size: PageSize,
    /// Ascending by page.
    frames: Vec<(u32, u32)>,
}

impl FrameMap {
    /// Where in the log the page lies; `None` when the log does not have it.
    pub fn offset_of(&self, page: PageNo) -> Option<u64> {
        let at = self.frames.binary_search_by_key(&page.get(), |(page, _)| *page).ok()?;
        self.frames.get(at).map(|(_, frame)| WalHeader::page_offset(self.page_size, *frame))
    }

    /// How many distinct pages the log has.
    pub fn pages(&self) -> usize {
        self.frames.len()
    }
}

/// What a log holds up to its last valid commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub header: WalHeader,
    pub frames: u32,
    /// Of the database after that commit.
    pub page_count: u32,
    pub checksum: Checksum,
    pub map: FrameMap,
}

/// One accepted frame.
struct Frame {
    page: u32,
    /// The size of the database in pages if this frame ends a transaction, else 0.
    commit: u32,
}

/// Walks the valid frames of a log in order.
struct Frames<R> {
    reader: R,
    header: WalHeader,
    checksum: Checksum,
    number: u32,
    page: Vec<u8>,
}

impl<R: Read> Frames<R> {
    fn begin(mut reader: R) -> Result<Self, WalError> {
        let mut head = [0; HEADER_LEN];
        let got = read_up_to(&mut reader, &mut head)?;
        let header = WalHeader::parse(head.get(..got).unwrap_or_default())?;
        let page = vec![0; header.page_size.get() as usize];
        Ok(Self { reader, header, checksum: header.checksum, number: 0, page })
    }

    /// The next valid frame; `None` at the first that is missing, cut or does not continue the chain.
    fn next(&mut self) -> Result<Option<Frame>, WalError> {
        let mut head = [0; FRAME_HEADER_LEN];
        if read_up_to(&mut self.reader, &mut head)? < head.len()
            || read_up_to(&mut self.reader, &mut self.page)? < self.page.len()
        {
            return Ok(None);
        }
        let word = |at: usize| be32(&head, at).unwrap_or_default();
        let (summed, _) = head.split_at(8);
        let checksum = self.checksum.over(self.header.order, summed).over(self.header.order, &self.page);
        let same_generation = head.get(8..16) == Some(self.header.salts.0.as_slice());
        let in_chain = checksum == Checksum { first: word(16), second: word(20) };
        if !same_generation || !in_chain || word(0) == 0 {
            return Ok(None);
        }
        let Some(number) = self.number.checked_add(1) else { return Ok(None) };
        self.number = number;
        self.checksum = checksum;
        Ok(Some(Frame { page: word(0), commit: word(4) }))
    }
}

/// Reads until `out` is full or the input ends.
fn read_up_to(reader: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = out.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

fn sorted(page_size: PageSize, latest: HashMap<u32, u32>) -> FrameMap {
    let mut frames: Vec<(u32, u32)> = latest.into_iter().collect();
    frames.sort_unstable();
    FrameMap { page_size, frames }
}

/// Maps exactly the frames a read transaction sees. Every frame of 1..=`pin.frames` must be valid, the
/// last one a commit, and its checksum the one the transaction holds: nothing less proves that the
/// log on disk is the one the transaction reads.
pub fn map_pinned(reader: impl Read, pin: &WalPin) -> Result<FrameMap, WalError> {
    let mut frames = Frames::begin(reader)?;
    let found = frames.header.page_size;
    if found != pin.page_size {
        return Err(WalError::OtherPageSize { found: found.get(), expected: pin.page_size.get() });
    }
    if frames.header.salts != pin.salts {
        return Err(WalError::OtherGeneration);
    }
    let mut latest = HashMap::new();
    let mut commit = 0;
    while frames.number < pin.frames {
        let broken = WalError::FrameBroken { frame: frames.number.saturating_add(1), expected: pin.frames };
        let frame = frames.next()?.ok_or(broken)?;
        latest.insert(frame.page, frames.number);
        commit = frame.commit;
    }
    if frames.checksum != pin.checksum {
        return Err(WalError::OtherContent(pin.frames));
    }
    if commit == 0 {
        return Err(WalError::NotACommit(pin.frames));
    }
    Ok(sorted(found, latest))
}

/// The end of a verified frame: from here the chain of checksums goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPlace {
    pub header: WalHeader,
    pub frames: u32,
    /// The running checksum after frame `frames`.
    pub checksum: Checksum,
}

impl WalPlace {
    /// Before the first frame.
    pub fn begin(header: WalHeader) -> Self {
        Self { header, frames: 0, checksum: header.checksum }
    }

    /// Where in the file the next frame begins.
    pub fn offset(&self) -> u64 {
        let frame = FRAME_HEADER_LEN as u64 + self.header.page_size.bytes();
        HEADER_LEN as u64 + u64::from(self.frames) * frame
    }
}

/// A transaction in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailCommit {
    /// Its first and its last frame.
    pub first: u32,
    pub last: u32,
    /// Of the database after it, in pages.
    pub page_count: u32,
    /// The running checksum after it.
    pub checksum: Checksum,
}

/// What was committed behind a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    pub commits: Vec<TailCommit>,
    /// The end of the last commit.
    pub end: WalPlace,
}

/// Is handed a frame's number, its page's number and the page.
pub type TakeFrame<'a> = dyn FnMut(u32, u32, &[u8]) -> io::Result<()> + 'a;

/// Reads on from a verified place up to the last valid commit, or up to frame `to` if that comes
/// first. `reader` stands at the offset of the place. Every valid frame is handed to `take` with its
/// number and its page, also those behind the last commit: what no commit covers must be thrown away.
pub fn read_on(
    reader: impl Read,
    from: &WalPlace,
    to: Option<u32>,
    take: &mut TakeFrame<'_>,
) -> Result<Tail, WalError> {
    let page = vec![0; from.header.page_size.get() as usize];
    let mut frames = Frames { reader, header: from.header, checksum: from.checksum, number: from.frames, page };
    let mut tail = Tail { commits: Vec::new(), end: *from };
    while to.is_none_or(|to| frames.number < to) {
        let Some(frame) = frames.next()? else { break };
        take(frames.number, frame.page, &frames.page)?;
        if frame.commit != 0 {
            let first = tail.end.frames.saturating_add(1);
            let checksum = frames.checksum;
            tail.commits.push(TailCommit { first, last: frames.number, page_count: frame.commit, checksum });
            tail.end = WalPlace { header: from.header, frames: frames.number, checksum: frames.checksum };
        }
    }
    Ok(tail)
}

/// Maps a log up to its last valid commit, as SQLite's own recovery does; `None` when no commit is
/// in it. A log shorter than its header, or whose header is not valid, holds nothing either.
pub fn map_committed(reader: impl Read) -> Result<Option<Committed>, WalError> {
    let mut frames = match Frames::begin(reader) {
        Ok(frames) => frames,
        Err(e @ (WalError::Io(_) | WalError::UnknownVersion(_))) => return Err(e),
        Err(_) => return Ok(None),
    };
    let mut latest = HashMap::new();
    let mut open = Vec::new();
    let mut last = None;
    while let Some(frame) = frames.next()? {
        open.push((frame.page, frames.number));
        if frame.commit != 0 {
            latest.extend(open.drain(..));
            last = Some((frames.number, frame.commit, frames.checksum));
        }
    }
    let header = frames.header;
    Ok(last.map(|(frames, page_count, checksum)| Committed {
        header,
        frames,
        page_count,
        checksum,
        map: sorted(header.page_size, latest),
    }))
}
