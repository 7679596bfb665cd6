//! A checked reader over a slice: every read either advances or says what is missing.

use crate::Corrupt;
use std::ops::Range;

/// Reads a byte slice from front to back.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { bytes, what }
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Corrupt> {
        let missing = Corrupt::Truncated { what: self.what };
        let (head, rest) = self.bytes.split_at_checked(len).ok_or(missing)?;
        self.bytes = rest;
        Ok(head)
    }

    /// Takes one fixed structure of `len` bytes.
    pub fn fixed(&mut self, len: usize) -> Result<Fixed<'a>, Corrupt> {
        Ok(Fixed { bytes: self.take(len)?, what: self.what })
    }

    pub fn rest(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing may follow: bytes nobody accounts for are an error.
    pub fn end(self) -> Result<(), Corrupt> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Corrupt::Trailing { what: self.what }) }
    }
}

/// A fixed structure whose fields are read by their range from `layout`.
pub(crate) struct Fixed<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Fixed<'a> {
    pub fn array<const N: usize>(&self, at: Range<usize>) -> Result<[u8; N], Corrupt> {
        let field = self.bytes.get(at).and_then(|bytes| <[u8; N]>::try_from(bytes).ok());
        field.ok_or(Corrupt::Truncated { what: self.what })
    }
    pub fn u8(&self, at: Range<usize>) -> Result<u8, Corrupt> {
        self.array::<1>(at).map(|[byte]| byte)
    }
    pub fn u16(&self, at: Range<usize>) -> Result<u16, Corrupt> {
        self.array(at).map(u16::from_le_bytes)
    }
    pub fn u32(&self, at: Range<usize>) -> Result<u32, Corrupt> {
        self.array(at).map(u32::from_le_bytes)
    }
    pub fn u64(&self, at: Range<usize>) -> Result<u64, Corrupt> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// Reserved bytes must be zero: a later version that uses them raises a feature bit.
    pub fn zero(&self, at: Range<usize>) -> Result<(), Corrupt> {
        let field = self.bytes.get(at).ok_or(Corrupt::Truncated { what: self.what })?;
        if field.iter().all(|b| *b == 0) { Ok(()) } else { Err(Corrupt::Reserved { what: self.what }) }
    }
}

/// Writes fixed structures: appends `len` zeros, then fills fields by their range.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    base: usize,
}

impl<'a> Writer<'a> {
    pub fn begin(out: &'a mut Vec<u8>, len: usize) -> Self {
        let base = out.len();
        out.resize(base + len, 0);
        Self { out, base }
    }

    pub fn put(&mut self, at: Range<usize>, bytes: &[u8]) -> &mut Self {
        let field = self.out.get_mut(self.base + at.start..self.base + at.end);
        field.expect("the range comes from the layout the structure was begun with").copy_from_slice(bytes);
        self
    }
    pub fn u8(&mut self, at: Range<usize>, n: u8) -> &mut Self {
        self.put(at, &[n])
    }
    pub fn u16(&mut self, at: Range<usize>, n: u16) -> &mut Self {
        self.put(at, &n.to_le_bytes())
    }
    pub fn u32(&mut self, at: Range<usize>, n: u32) -> &mut Self {
        self.put(at, &n.to_le_bytes())
    }
    pub fn u64(&mut self, at: Range<usize>, n: u64) -> &mut Self {
        self.put(at, &n.to_le_bytes())
    }
}
