//! Records: how SQLite writes the values of a row, a header of types and then the values.
//!
//! Owns the reading of one record, also of one that is cut or scribbled over: what can still be read is
//! given, and whether that is the whole of it. It must never give a value that is not there: what lies
//! past the end of the bytes is NULL, and the record then is no whole one.

/// More values than a table can have columns are no row.
const VALUES_MAX: usize = 32_767;

/// One value as it is stored. Text is in the encoding of its database.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// What was read of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record<'a> {
    pub values: Vec<Value<'a>>,
    /// Every byte is accounted for, and none is missing.
    pub is_whole: bool,
}

/// A number of one to nine bytes, and how many it took.
pub fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().take(8).enumerate() {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, at + 1));
        }
    }
    let last = bytes.get(8)?;
    Some((number << 8 | u64::from(*last), 9))
}

impl<'a> Record<'a> {
    /// Reads `payload`, which should be `declared` bytes long.
    pub fn parse(payload: &'a [u8], declared: u64) -> Self {
        let nothing = Self { values: Vec::new(), is_whole: false };
        let Some((header_len, taken)) = varint(payload) else { return nothing };
        let header_end = usize::try_from(header_len).unwrap_or(usize::MAX).min(payload.len());
        let Some((header, mut body)) = payload.split_at_checked(header_end) else { return nothing };
        let mut types = header.get(taken..).unwrap_or_default();
        let mut is_whole = payload.len() as u64 == declared && header_end as u64 == header_len;
        is_whole &= header_len >= taken as u64;
        let mut values = Vec::new();
        while !types.is_empty() && values.len() < VALUES_MAX {
            let Some((kind, taken)) = varint(types) else {
                is_whole = false;
                break;
            };
            types = types.get(taken..).unwrap_or_default();
            let (value, rest) = value(kind, body);
            is_whole &= value.is_some();
            values.push(value.unwrap_or(Value::Null));
            body = rest;
        }
        is_whole &= types.is_empty() && body.is_empty();
        Self { values, is_whole }
    }
}

/// The value at the start of `body`, and what follows. One that is cut takes everything that is left.
fn value(kind: u64, body: &[u8]) -> (Option<Value<'_>>, &[u8]) {
    let len = match kind {
        0 | 8 | 9 => 0,
        1..=4 => kind,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return (None, body),
        _ => (kind - 12) / 2,
    };
    let Some((bytes, rest)) = usize::try_from(len).ok().and_then(|len| body.split_at_checked(len)) else {
        return (None, &[]);
    };
    let value = match kind {
        0 => Value::Null,
        8 | 9 => Value::Integer(i64::from(kind == 9)),
        1..=6 => Value::Integer(integer(bytes)),
        7 => Value::Real(f64::from_bits(integer(bytes).cast_unsigned())),
        _ if kind.is_multiple_of(2) => Value::Blob(bytes),
        _ => Value::Text(bytes),
    };
    // SQLite reads a number that is none as NULL.
    let value = if matches!(value, Value::Real(x) if x.is_nan()) { Value::Null } else { value };
    (Some(value), rest)
}

/// Big-endian, with its sign in the first bit.
fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    bytes.iter().fold(if negative { -1 } else { 0 }, |number: i64, byte| number << 8 | i64::from(*byte))
}
