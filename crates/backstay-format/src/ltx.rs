//! Litestream's transaction files (LTX, as its releases 0.5 write them): pages of a database at the end of a range of
//! transactions.
//!
//! A file is a header, pages in ascending order, each an LZ4 block, an index of the pages, and a trailer. Numbers are
//! big-endian. The checksum in the trailer is over everything before it with the pages unpacked; nothing of a file may be
//! believed before it was compared, which [`Reader::next_page`] does when it comes to the end.

mod lz4;
#[cfg(test)]
mod tests;

use backstay_model::PageSize;
use std::io::{self, Read};

pub const HEADER: usize = 100;
const MAGIC: &[u8; 4] = b"LTX1";
const TRAILER: usize = 16;
const CHECKSUM: usize = 8;
const PAGE_HEADER: usize = 6;
/// Set on checksums, so that none is zero.
const CHECKSUM_FLAG: u64 = 1 << 63;
/// The database has no checksum of its own that goes on from file to file.
const NO_CHECKSUM: u32 = 1 << 1;
/// A page's length stands before it.
const WITH_SIZE: u16 = 1;
/// The most bytes the index has for a page: a number of 32 bits and two of 64, seven bits in a byte.
const INDEX_ENTRY_MAX: u64 = 25;
/// Where SQLite keeps its locks; the page that has this byte is never written.
const LOCK_BYTE: u32 = 0x4000_0000;

#[derive(Debug, thiserror::Error)]
pub enum LtxError {
    #[error("it is no LTX file")]
    Magic,
    #[error("its header is not as it must be: {0}")]
    Header(&'static str),
    #[error("its pages are in the format of the first releases 0.5, which this Backstay does not read")]
    OldPages,
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("its checksum is {found:016x}, and it says {wanted:016x}")]
    Checksum { wanted: u64, found: u64 },
    #[error("it ends too soon")]
    Short,
    #[error("read it")]
    Io(#[source] io::Error),
}

impl From<io::Error> for LtxError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { LtxError::Short } else { LtxError::Io(error) }
    }
}

/// What a file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub page_size: PageSize,
    /// Pages of the database after the last transaction.
    pub commit: u32,
    /// The first and the last transaction.
    pub min: u64,
    pub max: u64,
    /// Milliseconds since 1970 in UTC.
    pub timestamp: i64,
}

impl Header {
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Self, LtxError> {
        let (magic, rest) = bytes.split_at(4);
        if magic != MAGIC {
            return Err(LtxError::Magic);
        }
        let words: Vec<u32> = rest.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word)).collect();
        let word = |at: usize| words.get(at).copied().unwrap_or(0);
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 1));
        if word(0) & !NO_CHECKSUM != 0 {
            return Err(LtxError::Header("it has flags that are not known"));
        }
        let page_size = PageSize::try_from(word(1)).map_err(|_| LtxError::Header("it has no page size of SQLite"))?;
        let header = Self { page_size, commit: word(2), min: long(3), max: long(5), timestamp: long(7).cast_signed() };
        if header.min == 0 || header.min > header.max {
            return Err(LtxError::Header("its transactions are out of order"));
        }
        Ok(header)
    }

    /// Whether it holds every page of the database.
    pub fn is_snapshot(&self) -> bool {
        self.min == 1
    }

    pub fn lock_page(&self) -> u32 {
        LOCK_BYTE / self.page_size.get() + 1
    }
}

/// Reads a file from its beginning to its end, a page at a time.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    header: Header,
    check: Crc64,
    packed: Vec<u8>,
    last: u32,
    pages: u64,
    is_over: bool,
}

impl<R: Read> Reader<R> {
    pub fn open(mut from: R) -> Result<Self, LtxError> {
        let mut bytes = [0; HEADER];
        from.read_exact(&mut bytes)?;
        let header = Header::parse(&bytes)?;
        let mut check = Crc64::new();
        check.add(&bytes);
        Ok(Self { from, header, check, packed: Vec::new(), last: 0, pages: 0, is_over: false })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Fills `page`, which is as long as a page, and gives its number; `None` after the last one, when the whole file
    /// turned out to be what was written.
    pub fn next_page(&mut self, page: &mut [u8]) -> Result<Option<u32>, LtxError> {
        if self.is_over {
            return Ok(None);
        }
        let mut bytes = [0; PAGE_HEADER];
        self.read(&mut bytes)?;
        let [a, b, c, d, e, f] = bytes;
        let (number, flags) = (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f]));
        if number == 0 {
            self.end()?;
            return Ok(None);
        }
        if flags & WITH_SIZE == 0 {
            return Err(LtxError::OldPages);
        }
        self.judge(number)?;
        let mut size = [0; 4];
        self.read(&mut size)?;
        // What LZ4 cannot make smaller becomes larger by a 255th and a little.
        let (size, most) = (u32::from_be_bytes(size) as usize, page.len() + page.len() / 255 + 16);
        if size > most {
            return Err(LtxError::Damaged("a page is longer than it can be"));
        }
        self.packed.resize(size, 0);
        self.from.read_exact(&mut self.packed)?;
        lz4::unpack(&self.packed, page).ok_or(LtxError::Damaged("a page cannot be unpacked"))?;
        self.check.add(page);
        (self.last, self.pages) = (number, self.pages + 1);
        Ok(Some(number))
    }

    /// Pages come in order, none behind the end, and a snapshot lacks none but the lock page.
    fn judge(&self, number: u32) -> Result<(), LtxError> {
        let lock = self.header.lock_page();
        if number <= self.last || number > self.header.commit || number == lock {
            return Err(LtxError::Damaged("its pages are out of order"));
        }
        let next = self.last + if self.last + 1 == lock { 2 } else { 1 };
        if self.header.is_snapshot() && number != next {
            return Err(LtxError::Damaged("a page of the snapshot is missing"));
        }
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), LtxError> {
        self.from.read_exact(bytes)?;
        self.check.add(bytes);
        Ok(())
    }

    /// The index and the trailer: nothing but them follows, and the checksum is right.
    fn end(&mut self) -> Result<(), LtxError> {
        let commit = self.header.commit;
        let all = u64::from(commit) - u64::from(commit >= self.header.lock_page());
        if self.header.is_snapshot() && self.pages != all {
            return Err(LtxError::Damaged("pages of the snapshot are missing"));
        }
        let most = self.pages * INDEX_ENTRY_MAX + 1 + 8 + TRAILER as u64;
        let mut rest = Vec::new();
        (&mut self.from).take(most + 1).read_to_end(&mut rest)?;
        if rest.len() as u64 > most {
            return Err(LtxError::Damaged("something follows its end"));
        }
        let (before, checksum) = rest.split_last_chunk::<CHECKSUM>().ok_or(LtxError::Short)?;
        if before.len() < TRAILER - CHECKSUM {
            return Err(LtxError::Short);
        }
        self.check.add(before);
        let (wanted, found) = (u64::from_be_bytes(*checksum), CHECKSUM_FLAG | self.check.sum());
        if wanted != found {
            return Err(LtxError::Checksum { wanted, found });
        }
        self.is_over = true;
        Ok(())
    }
}

/// `0000000000000004-0000000000000009.ltx`: the first and the last transaction.
pub fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (min, max) = name.strip_suffix(".ltx")?.split_once('-')?;
    let number = |text: &str| {
        let is_plain = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    Some((number(min)?, number(max)?))
}

/// CRC-64 as ISO 3309 has it.
#[derive(Debug, Clone)]
struct Crc64(u64);

const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[byte] = crc;
        }
        byte += 1;
    }
    table
};

impl Crc64 {
    fn new() -> Self {
        Self(!0)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let at = usize::from(self.0 as u8 ^ byte);
            self.0 = TABLE.get(at).copied().unwrap_or(0) ^ (self.0 >> 8);
        }
    }

    fn sum(&self) -> u64 {
        !self.0
    }
}
