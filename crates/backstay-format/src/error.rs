//! What can be wrong with bytes: each variant names the structure and the rule it broke.

use backstay_model::{Kind, Kinded};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    #[error("{what} is cut short")]
    Truncated { what: &'static str },
    #[error("{what} is followed by bytes nobody accounts for")]
    Trailing { what: &'static str },
    #[error("{what} has reserved bytes that are not zero")]
    Reserved { what: &'static str },
    #[error("not a Backstay object: the magic is wrong")]
    Magic,
    #[error("the end of the object is missing")]
    EndMagic,
    #[error("the header's checksum is wrong")]
    HeaderCheck,
    #[error("format version {found} is unknown here (this build reads version 1)")]
    Version { found: u16 },
    #[error("the object needs features this build does not have (bits {bits:#x})")]
    Features { bits: u32 },
    #[error("unknown object type {found}")]
    Type { found: u8 },
    #[error("expected {wanted}, found {found}")]
    WrongType { wanted: &'static str, found: &'static str },
    #[error("the flags {found:#x} do not fit the object's type")]
    Flags { found: u8 },
    #[error("{what} is {len} bytes; the most allowed is {max}")]
    TooLong { what: &'static str, len: u64, max: u64 },
    #[error("{what} does not have the length its header says")]
    Length { what: &'static str },
    #[error("{what} is not what was signed")]
    Digest { what: &'static str },
    #[error("{what} breaks its rules: {rule}")]
    Rule { what: &'static str, rule: &'static str },
    #[error("{what} is not the JSON it should be: {reason}")]
    Json { what: &'static str, reason: String },
}

impl Kinded for Corrupt {
    fn kind(&self) -> Kind {
        Kind::Corrupt
    }
}
