//! The table of what was found and belongs nowhere, in the form `sqlite3 .recover` gives it.

use backstay_format::sqlite::TextEncoding;
use backstay_format::sqlite::record::Value;
use backstay_format::sqlite::walk::Row;
use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

/// Columns for values: SQLite makes no table of more than two thousand.
pub const COLUMNS_MAX: usize = 1900;

/// Why a row is not in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing leads to its page, and no table is the only one it can be of.
    Orphan,
    /// A piece of it is missing; what is missing is NULL here.
    Torn,
    /// It has more values than the table its page belongs to, or of other kinds.
    Foreign,
    /// The table has a row with its key, or does not allow it.
    Refused,
}

impl Why {
    pub fn word(self) -> &'static str {
        match self {
            Why::Orphan => "orphan",
            Why::Torn => "torn",
            Why::Foreign => "foreign",
            Why::Refused => "refused",
        }
    }
}

/// One row that is not in its table.
pub struct Lost<'a> {
    /// The page at the top of its tree.
    pub top: u32,
    pub row: &'a Row<'a>,
    pub why: Why,
}

/// Text as UTF-8, the way SQLite itself reads broken pairs.
pub fn text_of(bytes: &[u8], encoding: TextEncoding) -> String {
    let units = |pair: fn([u8; 2]) -> u16| {
        let (pairs, _) = bytes.as_chunks::<2>();
        String::from_utf16_lossy(&pairs.iter().map(|two| pair(*two)).collect::<Vec<u16>>())
    };
    match encoding {
        TextEncoding::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
        TextEncoding::Utf16Le => units(u16::from_le_bytes),
        TextEncoding::Utf16Be => units(u16::from_be_bytes),
    }
}

/// A value on its way into the new database.
pub enum Bound<'a> {
    AsStored(Value<'a>),
    Text(String),
}

impl<'a> Bound<'a> {
    /// UTF-8 goes in byte for byte, also where it is no UTF-8.
    pub fn of(value: Value<'a>, encoding: TextEncoding) -> Self {
        match value {
            Value::Text(bytes) if encoding != TextEncoding::Utf8 => Bound::Text(text_of(bytes, encoding)),
            other => Bound::AsStored(other),
        }
    }
}

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Bound::Text(text) => ValueRef::Text(text.as_bytes()),
            Bound::AsStored(Value::Null) => ValueRef::Null,
            Bound::AsStored(Value::Integer(n)) => ValueRef::Integer(*n),
            Bound::AsStored(Value::Real(x)) => ValueRef::Real(*x),
            Bound::AsStored(Value::Text(bytes)) => ValueRef::Text(bytes),
            Bound::AsStored(Value::Blob(bytes)) => ValueRef::Blob(bytes),
        }))
    }
}
