//! The seam: where the pages of a database come from.

use backstay_model::{Kind, Kinded, PageSize};

/// Why a page could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct PageFault {
    pub kind: Kind,
    pub what: String,
}

impl Kinded for PageFault {
    fn kind(&self) -> Kind {
        self.kind
    }
}

/// A database at rest: nobody changes it while it is read. Asked from several threads at once.
pub trait PageSource: Send + Sync + 'static {
    fn page_size(&self) -> PageSize;
    /// How many pages there are; their numbers begin with 1.
    fn pages(&self) -> u32;
    /// Fills `into`, which is a page long, with the bytes the page was stored with, or fails.
    fn read(&self, page: u32, into: &mut [u8]) -> Result<(), PageFault>;
    /// The page, if that takes no waiting.
    fn at_hand(&self, page: u32) -> Option<Vec<u8>>;
    /// These are likely wanted soon, in this order. Returns at once; what fails is found out when it is read.
    fn ahead(&self, pages: &[u32]);
    /// The most pages it is worth asking for ahead of their use.
    fn ahead_max(&self) -> usize;
}
