//! Pages for whoever has a SQLite of their own: one after another, with the next ones asked for ahead.

use super::ahead::Ahead;
use super::source::{PageFault, PageSource};
use std::sync::Arc;

pub struct PageReader {
    source: Arc<dyn PageSource>,
    ahead: Ahead,
}

impl PageReader {
    pub fn new(source: Arc<dyn PageSource>) -> Self {
        let ahead = Ahead::new(source.ahead_max());
        Self { source, ahead }
    }

    /// Fills `into`, which is as long as a page.
    pub fn page(&mut self, number: u32, into: &mut [u8]) -> Result<(), PageFault> {
        let wanted = self.ahead.before(number, |page| self.source.at_hand(page));
        if !wanted.is_empty() {
            // The page itself goes first, so that one request brings it and its neighbours.
            let all: Vec<u32> = std::iter::once(number).chain(wanted).collect();
            self.source.ahead(&all);
        }
        self.source.read(number, into)?;
        self.ahead.after(number, into);
        Ok(())
    }
}
