//! Newtypes for every number that crosses a function: private field, checked arithmetic.

use std::fmt;

/// Mints a 64-bit counter that only goes up.
macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, first = $first:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            pub const FIRST: Self = Self($first);
            pub const fn new(n: u64) -> Self { Self(n) }
            pub const fn get(self) -> u64 { self.0 }
            /// The one after this; `None` at the end of the 64-bit range.
            pub fn next(self) -> Option<Self> { self.0.checked_add(1).map(Self) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
        }
    };
}

counter!(
    /// Where a snapshot stands in its branch. Backstay's own counter, never reused within a branch.
    Position, first = 1
);
counter!(
    /// The dense number of a signed object in its chain; the first of a chain is 1.
    Sequence, first = 1
);
counter!(
    /// A state of a followed source: goes up by one with each commit of a branch, and is never used twice.
    Tx, first = 0
);
counter!(
    /// Which manifest of a snapshot: the first is the one that was committed, a higher one stands in its place
    /// and has the same content in other objects. Counted over a source, so no two snapshots share one but the first.
    Generation, first = 0
);
counter!(
    /// One line of a source's history.
    BranchNo, first = 0
);

/// A length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ByteLen(u64);

impl ByteLen {
    pub const fn new(n: u64) -> Self {
        Self(n)
    }
    pub const fn get(self) -> u64 {
        self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a size is written 512 KiB, 64 MiB or 1.5 GiB")]
pub struct BadByteLen;

impl std::str::FromStr for ByteLen {
    type Err = BadByteLen;

    /// A number with at most three decimals and a binary unit: `64 MiB`, `1.5 GiB`, `0 B`.
    fn from_str(text: &str) -> Result<Self, BadByteLen> {
        const UNITS: [(&str, u32); 5] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
        let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or(BadByteLen)?;
        let (number, unit) = (text[..split].trim(), &text[split..]);
        let (_, shift) = UNITS.iter().find(|(word, _)| *word == unit).ok_or(BadByteLen)?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 3 {
            return Err(BadByteLen);
        }
        let thousandths: u64 = format!("{decimals:0<3}").parse().map_err(|_| BadByteLen)?;
        let whole: u64 = whole.parse().map_err(|_| BadByteLen)?;
        let bytes = (u128::from(whole) * 1000 + u128::from(thousandths)) * (1_u128 << shift) / 1000;
        u64::try_from(bytes).map(Self).map_err(|_| BadByteLen)
    }
}

impl fmt::Display for ByteLen {
    /// `998 B`, `1.5 KiB`, `0.7 GiB`: three significant digits, so that a column stays narrow.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1000 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 999.5 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let digits = if value < 9.995 {
            2
        } else if value < 99.95 {
            1
        } else {
            0
        };
        write!(f, "{value:.digits$} {}", UNITS[unit])
    }
}

/// The size of a database page: a power of two from 512 to 65536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page size {0} is not a power of two from 512 to 65536")]
pub struct BadPageSize(pub u32);

impl PageSize {
    pub const fn get(self) -> u32 {
        self.0
    }
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }
}

impl TryFrom<u32> for PageSize {
    type Error = BadPageSize;
    fn try_from(n: u32) -> Result<Self, BadPageSize> {
        let valid = (512..=65_536).contains(&n) && n.is_power_of_two();
        if valid { Ok(Self(n)) } else { Err(BadPageSize(n)) }
    }
}

/// A database page, counted from 1 as SQLite does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(u32);

impl PageNo {
    /// `None` for 0, which SQLite uses for "no page".
    pub const fn new(n: u32) -> Option<Self> {
        if n == 0 { None } else { Some(Self(n)) }
    }
    pub const fn get(self) -> u32 {
        self.0
    }
    /// Where the page begins in the database file.
    pub const fn offset(self, size: PageSize) -> u64 {
        (self.0 as u64 - 1) * size.bytes()
    }
}

/// What a snapshot counts and fingerprints: one page, or 4 KiB where pages are smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnitSize(u32);

impl UnitSize {
    pub const MIN: u32 = 4096;
    pub const MAX: u32 = 65_536;

    pub const fn for_pages(page: PageSize) -> Self {
        Self(if page.0 < Self::MIN { Self::MIN } else { page.0 })
    }
    pub const fn get(self) -> u32 {
        self.0
    }
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }
    /// How many units a stream of this length has; the last may be short.
    pub const fn count(self, len: ByteLen) -> u64 {
        len.0.div_ceil(self.0 as u64)
    }
}

impl TryFrom<u32> for UnitSize {
    type Error = BadPageSize;
    fn try_from(n: u32) -> Result<Self, BadPageSize> {
        let valid = (Self::MIN..=Self::MAX).contains(&n) && n.is_power_of_two();
        if valid { Ok(Self(n)) } else { Err(BadPageSize(n)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_print_with_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1536, "1.50 KiB"),
            (10 * 1024 * 1024, "10.0 MiB"),
            (1023 * 1024, "1.00 MiB"),
            (751_619_277, "717 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(ByteLen::new(bytes).to_string(), text);
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("0 B", 0),
            ("998B", 998),
            ("64 MiB", 64 << 20),
            ("1.5 GiB", 3 << 29),
            ("2TiB", 2 << 40),
            ("0.125 KiB", 128),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteLen::new(bytes)), "{text}");
        }
        for text in ["", "5", "MiB", "-1 MiB", "1 MB", "1.2345 GiB", "1..5 MiB", "1. MiB", "99999999999 TiB", "1 MiB x"]
        {
            assert_eq!(text.parse::<ByteLen>(), Err(BadByteLen), "{text}");
        }
    }

    #[test]
    fn page_sizes_are_powers_of_two_in_range() {
        let valid: Vec<u32> = (0..=70_000).filter(|n| PageSize::try_from(*n).is_ok()).collect();
        assert_eq!(valid, [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]);
    }

    #[test]
    fn a_unit_is_never_smaller_than_4_kib() {
        let unit = |page| UnitSize::for_pages(PageSize::try_from(page).expect("a valid page size")).get();
        assert_eq!([unit(512), unit(4096), unit(65_536)], [4096, 4096, 65_536]);
    }

    #[test]
    fn counters_do_not_wrap() {
        assert_eq!(Position::new(u64::MAX).next(), None);
        assert_eq!(Position::FIRST.next(), Some(Position::new(2)));
    }
}
