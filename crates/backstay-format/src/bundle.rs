//! A bundle: small signed objects, or the fronts of larger ones, one behind the other, each with its name.
//!
//! It brings what many reads would bring and vouches for nothing: what is in it is verified under its own name. There is one
//! way to write it: names in byte order, none twice.

use crate::Corrupt;
use crate::cursor::{Cursor, Writer};
use crate::layout::item;

const WHAT: &str = "a bundle";

/// One object, or the beginning of one, and the name it lies under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
}

/// The items must be in the order of their names.
pub fn encode<'a>(items: impl IntoIterator<Item = Item<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    for Item { name, bytes } in items {
        let mut w = Writer::begin(&mut out, item::LEN);
        w.u16(item::NAME, name.len() as u16).u32(item::BYTES, bytes.len() as u32);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(bytes);
    }
    out
}

pub fn parse(bytes: &[u8]) -> Result<Vec<Item<'_>>, Corrupt> {
    let mut cursor = Cursor::new(WHAT, bytes);
    let mut items: Vec<Item<'_>> = Vec::new();
    while cursor.rest() > 0 {
        let head = cursor.fixed(item::LEN)?;
        head.zero(item::ZERO)?;
        let (name, len) = (head.u16(item::NAME)?, head.u32(item::BYTES)?);
        let broken = |rule| Corrupt::Rule { what: WHAT, rule };
        let name = std::str::from_utf8(cursor.take(usize::from(name))?).map_err(|_| broken("its names are text"))?;
        if items.last().is_some_and(|last| last.name >= name) {
            return Err(broken("its names are in order, and none is there twice"));
        }
        items.push(Item { name, bytes: cursor.take(len as usize)? });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_cut_or_out_of_order_is_refused() {
        let items =
            [Item { name: "a", bytes: b"one" }, Item { name: "ab", bytes: b"" }, Item { name: "b", bytes: b"2" }];
        let bytes = encode(items);
        assert_eq!(parse(&bytes).as_deref(), Ok(&items[..]));
        assert_eq!(parse(b"").as_deref(), Ok(&[][..]));
        let whole = [0, 12, 22];
        for cut in (0..bytes.len()).filter(|cut| !whole.contains(cut)) {
            assert!(parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bad in [[items[1], items[0]], [items[0], items[0]]] {
            assert!(matches!(parse(&encode(bad)), Err(Corrupt::Rule { .. })), "{bad:?}");
        }
        let mut reserved = bytes.clone();
        reserved[2] = 1;
        assert!(matches!(parse(&reserved), Err(Corrupt::Reserved { .. })));
        let mut text = bytes;
        text[8] = 0xff;
        assert!(matches!(parse(&text), Err(Corrupt::Rule { .. })));
    }
}
