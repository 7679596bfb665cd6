//! The 100 bytes at the start of every SQLite database.
//!
//! Owns the parse of that header and the one guess made from bytes alone: that a file without the
//! magic was encrypted by another program rather than being no database at all.

use super::be32;
use backstay_model::{ByteLen, PageSize};

#[cfg(test)]
mod tests;

/// What every database begins with.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";
pub const HEADER_LEN: usize = 100;

const PAGE_SIZE_AT: usize = 16;
const WRITE_VERSION_AT: usize = 18;
const READ_VERSION_AT: usize = 19;
const RESERVED_AT: usize = 20;
const PAYLOAD_FRACTIONS_AT: usize = 21;
const CHANGE_COUNTER_AT: usize = 24;
const PAGE_COUNT_AT: usize = 28;
const SCHEMA_COOKIE_AT: usize = 40;
const LARGEST_ROOT_AT: usize = 52;
const ENCODING_AT: usize = 56;
const USER_VERSION_AT: usize = 60;
const INCREMENTAL_AT: usize = 64;
const APPLICATION_ID_AT: usize = 68;
const VALID_FOR_AT: usize = 92;

/// The three payload fractions have had one legal value since version 3.0.
const PAYLOAD_FRACTIONS: [u8; 3] = [64, 32, 32];
/// SQLite refuses a page with fewer usable bytes than this.
const USABLE_MIN: u32 = 480;

/// How text is stored in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextEncoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

/// Whether the database gives pages back to the file system, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoVacuum {
    None,
    Full,
    Incremental,
}

/// What the file says about how commits are made. A hint: the truth is in a running transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteFormat {
    Rollback,
    Wal,
}

/// The header as values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseHeader {
    pub page_size: PageSize,
    pub reserved: u8,
    pub format: WriteFormat,
    pub change_counter: u32,
    /// The size in pages as the header has it; see [`DatabaseHeader::trusted_page_count`].
    pub page_count: u32,
    pub schema_cookie: u32,
    pub encoding: TextEncoding,
    pub auto_vacuum: AutoVacuum,
    pub user_version: u32,
    pub application_id: u32,
    /// The change counter at the time `page_count` was written.
    pub version_valid_for: u32,
}

/// Why bytes are not the start of a SQLite database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the file ends after {0} bytes, inside the database header")]
    Truncated(u64),
    #[error("not a SQLite database")]
    NotSqlite,
    #[error("not a SQLite database, or encrypted by another tool")]
    LooksEncrypted,
    #[error("the header gives a page size of {0}, which is not a power of two from 512 to 65536")]
    BadPageSize(u32),
    #[error("the header reserves {reserved} bytes of each {page_size} byte page")]
    BadReserved { reserved: u8, page_size: u32 },
    #[error("the header has payload fractions {0:?}, which SQLite never writes")]
    BadPayloadFractions([u8; 3]),
    #[error("the header has file format {write}/{read}, newer than any known")]
    UnknownFormat { write: u8, read: u8 },
    #[error("the header names text encoding {0}, which does not exist")]
    BadEncoding(u32),
}

impl DatabaseHeader {
    /// Reads the header from the first bytes of a file that is `file_len` bytes long. More than 100
    /// bytes of `first` help only to tell an encrypted file from one that is something else.
    pub fn parse(first: &[u8], file_len: ByteLen) -> Result<Self, HeaderError> {
        let magic = first.get(..MAGIC.len().min(first.len())).unwrap_or_default();
        if !MAGIC.starts_with(magic) {
            return Err(if looks_encrypted(first, file_len) {
                HeaderError::LooksEncrypted
            } else {
                HeaderError::NotSqlite
            });
        }
        let Some(head) = first.get(..HEADER_LEN) else {
            return Err(HeaderError::Truncated(first.len() as u64));
        };
        Self::parse_known(head).unwrap_or(Err(HeaderError::Truncated(first.len() as u64)))
    }

    /// `None` when a field lies outside `head`, which 100 bytes rule out.
    fn parse_known(head: &[u8]) -> Option<Result<Self, HeaderError>> {
        let byte = |at: usize| head.get(at).copied();
        let raw_size = u32::from(byte(PAGE_SIZE_AT)?) << 8 | u32::from(byte(PAGE_SIZE_AT + 1)?);
        // 65536 does not fit into the two bytes and is written as 1.
        let raw_size = if raw_size == 1 { 65_536 } else { raw_size };
        let Ok(page_size) = PageSize::try_from(raw_size) else {
            return Some(Err(HeaderError::BadPageSize(raw_size)));
        };
        let reserved = byte(RESERVED_AT)?;
        if page_size.get() - u32::from(reserved) < USABLE_MIN {
            return Some(Err(HeaderError::BadReserved { reserved, page_size: page_size.get() }));
        }
        let fractions: [u8; 3] = head.get(PAYLOAD_FRACTIONS_AT..PAYLOAD_FRACTIONS_AT + 3)?.try_into().ok()?;
        if fractions != PAYLOAD_FRACTIONS {
            return Some(Err(HeaderError::BadPayloadFractions(fractions)));
        }
        let format = match (byte(WRITE_VERSION_AT)?, byte(READ_VERSION_AT)?) {
            (_, 0 | 1) => WriteFormat::Rollback,
            (_, 2) => WriteFormat::Wal,
            (write, read) => return Some(Err(HeaderError::UnknownFormat { write, read })),
        };
        let encoding = match be32(head, ENCODING_AT)? {
            // A database whose schema was never written has no encoding yet; SQLite takes its default.
            0 | 1 => TextEncoding::Utf8,
            2 => TextEncoding::Utf16Le,
            3 => TextEncoding::Utf16Be,
            other => return Some(Err(HeaderError::BadEncoding(other))),
        };
        let auto_vacuum = match (be32(head, LARGEST_ROOT_AT)?, be32(head, INCREMENTAL_AT)?) {
            (0, _) => AutoVacuum::None,
            (_, 0) => AutoVacuum::Full,
            _ => AutoVacuum::Incremental,
        };
        Some(Ok(Self {
            page_size,
            reserved,
            format,
            change_counter: be32(head, CHANGE_COUNTER_AT)?,
            page_count: be32(head, PAGE_COUNT_AT)?,
            schema_cookie: be32(head, SCHEMA_COOKIE_AT)?,
            encoding,
            auto_vacuum,
            user_version: be32(head, USER_VERSION_AT)?,
            application_id: be32(head, APPLICATION_ID_AT)?,
            version_valid_for: be32(head, VALID_FOR_AT)?,
        }))
    }

    /// The size in pages, when the program that wrote last kept the field. Programs before 3.7.0 did
    /// not, and the counters then differ: the length of the file decides instead.
    pub fn trusted_page_count(&self) -> Option<u32> {
        (self.page_count != 0 && self.version_valid_for == self.change_counter).then_some(self.page_count)
    }
}

/// Whether the bytes could be the output of a cipher: a whole number of small pages whose start is
/// spread evenly over all byte values. Compressed archives match too, hence "or" in the message.
fn looks_encrypted(first: &[u8], file_len: ByteLen) -> bool {
    let whole_pages = file_len.get() > 0 && file_len.get().is_multiple_of(512);
    whole_pages && first.len() >= 256 && entropy_bits(first) > expected_entropy_bits(first.len()) - 0.35
}

/// Shannon entropy per byte.
fn entropy_bits(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in bytes {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let total = bytes.len() as f64;
    counts.iter().filter(|n| **n > 0).map(|n| f64::from(*n) / total).map(|p| -p * p.log2()).sum()
}

/// What `len` random bytes measure on average: eight bits, less the bias of a small sample.
fn expected_entropy_bits(len: usize) -> f64 {
    8.0 - 255.0 / (2.0 * std::f64::consts::LN_2 * len as f64)
}
