//! Every offset of the repository's own formats, each derived from the one before it.
//!
//! `docs/formats/object.md`, `tree.md`, `manifest.md`, `log.md` and `bundle.md` print the same tables; a test compares them.

/// One field of a fixed structure, as the spec page prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub offset: usize,
    pub len: usize,
}

/// Declares a fixed structure: a module with one byte range per field, the total and the field list.
macro_rules! structure {
    ($(#[$doc:meta])* $module:ident { $($field:ident: $len:expr,)* } = $total:literal) => {
        $(#[$doc])*
        pub mod $module {
            use super::Field;
            structure!(@ranges 0usize; $($field: $len,)*);
            pub const FIELDS: &[Field] = &[$(Field { name: stringify!($field), offset: $field.start, len: $len },)*];
            pub const LEN: usize = 0 $(+ $len)*;
            const _: () = assert!(LEN == $total);
        }
    };
    (@ranges $at:expr; $field:ident: $len:expr, $($rest:tt)*) => {
        pub const $field: std::ops::Range<usize> = ($at)..($at + $len);
        structure!(@ranges $at + $len; $($rest)*);
    };
    (@ranges $at:expr;) => {};
}

structure!(
    /// The plain header that every object begins with.
    header {
        MAGIC: 8, VERSION: 2, TYPE: 1, FLAGS: 1, INCOMPATIBLE: 4, READ_COMPATIBLE: 4, COMPATIBLE: 4,
        REPOSITORY: 16, OBJECT: 16, SALT: 32, COMMITMENT: 32, SIGNER: 32, SEQUENCE: 8, PREVIOUS: 32,
        WRAP_LEN: 4, FACTS_LEN: 4, TABLE_LEN: 4, ZERO: 4, CHECK: 16,
    } = 224
);

structure!(
    /// Stands right after the facts of a signed object, so that a listing needs only the front.
    signature { TABLE_DIGEST: 32, BODY_DIGEST: 32, SIGNATURE: 64, } = 128
);

structure!(
    /// One row of the frame index.
    index { STORED: 4, RAW: 4, } = 8
);

structure!(
    /// The last bytes of every object.
    trailer { FRAMES_LEN: 8, FRAME_COUNT: 4, ZERO: 4, MAGIC: 8, } = 24
);

structure!(
    /// The head of a manifest's table.
    table { REFS: 4, WRAPS: 4, } = 8
);

structure!(
    /// One row of a manifest's refs table.
    reference {
        OBJECT: 16, STORED: 8, DIGEST: 32, SALT: 32, WRAP: 2, TYPE: 1, ZERO: 1,
        LIVE_UNITS: 4, TOTAL_UNITS: 4, LIVE_NODES: 4,
    } = 104
);

structure!(
    /// The head of a map leaf.
    leaf { UNITS: 2, OBJECTS: 2, RUNS: 2, ZERO: 2, } = 8
);

structure!(
    /// Consecutive units of a leaf that lie in consecutive slots of one frame.
    run { FIRST: 2, COUNT: 2, OBJECT: 2, SLOT: 2, FRAME: 4, OFFSET: 4, STORED: 4, RAW: 4, } = 24
);

structure!(
    /// The head of an inner node.
    node { CHILDREN: 2, OBJECTS: 2, LEVEL: 1, ZERO: 3, } = 8
);

structure!(
    /// One child of an inner node: where its bytes lie inside a frame.
    child { OBJECT: 2, ZERO: 2, FRAME: 4, OFFSET: 4, STORED: 4, RAW: 4, AT: 4, LEN_: 4, } = 28
);

structure!(
    /// The head of one frame's entry in a pack's directory.
    directory { KIND: 1, ZERO: 1, STREAM: 2, COUNT: 4, } = 8
);

structure!(
    /// One unit in a pack's directory: its number in the stream and its fingerprint.
    unit { NUMBER: 8, FINGERPRINT: 16, } = 24
);

structure!(
    /// The head of a log object's records.
    log { RECORDS: 4, ZERO: 4, } = 8
);

structure!(
    /// One commit of a log object, or a part of one; the numbers of its pages follow, four bytes each.
    commit {
        SPAN: 2, PART: 1, ZERO: 1, PAGES: 4, PAGE_SIZE: 4, PAGE_COUNT: 4, TX: 8, TIME: 8, DIGEST: 32,
    } = 64
);

structure!(
    /// The head of one object in a bundle; its name and its bytes follow.
    item { NAME: 2, ZERO: 2, BYTES: 4, } = 8
);

/// Begins every object: a high bit, a name, and the line endings that text transfers mangle.
pub const MAGIC: [u8; 8] = *b"\x89BKS\r\n\x1a\n";
/// Ends every object, so that a cut-off one is told at a glance.
pub const END_MAGIC: [u8; 8] = *b"BKSEND\r\n";
pub const VERSION: u16 = 1;

pub const FLAG_SEALED: u8 = 1;
pub const FLAG_SIGNED: u8 = 2;

/// Units in one map leaf, and children of one inner node.
pub const FAN_OUT: usize = 512;
/// The deepest tree a reader follows: 512 to the fifth units is past any database.
pub const LEVELS_MAX: u8 = 4;

/// The longest wrapped data key.
pub const WRAP_MAX: usize = 4096;
/// The longest plain facts.
pub const FACTS_MAX: usize = 1 << 20;
/// The longest refs table: about 2.5 million objects.
pub const TABLE_MAX: usize = 256 << 20;
/// The longest raw frame, and so the most a reader ever allocates for one.
pub const FRAME_RAW_MAX: usize = 1 << 20;
/// What sealing may add to a raw frame: the compressor's worst case and the tag.
pub const FRAME_STORED_MAX: usize = FRAME_RAW_MAX + (FRAME_RAW_MAX >> 7) + 1024;
/// The longest pack.
pub const PACK_MAX: usize = 32 << 20;
/// The longest bundle.
pub const BUNDLE_MAX: usize = 16 << 20;
/// The longest object of any kind.
pub const OBJECT_MAX: usize = 512 << 20;

/// A whole raw unit frame: large enough to compress well, small enough for a point read.
pub const FRAME_TARGET: usize = 256 << 10;

#[cfg(test)]
mod tests;
