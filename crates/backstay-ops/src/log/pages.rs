//! Where each page of a state lies: in the snapshot, or in which frame of which object of the log behind it.
//!
//! For whoever reads single pages of a state and does not write it out. Built from the records alone; a page read
//! through it has passed its frame's tag, and comes from an object whose signature holds.

use super::LogPoint;
use crate::OpsError;
use crate::catalog::Vault;
use backstay_format::log::Record;
use backstay_format::{Corrupt, FramePlace};
use backstay_store::repo::LogIndex;
use std::collections::HashMap;

/// The pages of one state of a followed source, as far as its log wrote them.
pub struct PageMap {
    /// Bytes of a page, and pages of the database, in that state. `None` when the log wrote nothing: it is the
    /// snapshot's.
    shape: Option<(u32, u32)>,
    /// Pages above this were cut off at some time: what the snapshot has of them is not theirs.
    kept: u32,
    images: HashMap<u32, Image>,
    objects: Vec<LogIndex>,
}

/// An image of a page in a log object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Image {
    /// Which object, in the order of the log.
    pub object: usize,
    pub frame: FramePlace,
    /// Where it begins in the opened frame.
    pub at: u32,
    pub len: u32,
}

/// Who has a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lies {
    /// The snapshot, at its place there.
    InSnapshot,
    InLog(Image),
    /// Nobody wrote it: the lock-byte page, zeros.
    Nowhere,
    /// The database ends before it.
    Beyond,
}

impl PageMap {
    /// Reads the records of every object that leads to the state.
    pub async fn of(vault: &Vault, point: &LogPoint) -> Result<Self, OpsError> {
        let mut map = Self { shape: None, kept: u32::MAX, images: HashMap::new(), objects: Vec::new() };
        for link in &point.links {
            vault.env.cancel.check()?;
            let index = link.index(&vault.repo, vault.unsealer()?).await?;
            let span = index.front.facts.spans.iter().position(|span| *span == link.span).unwrap_or(usize::MAX);
            map.add(index, span, point)?;
        }
        Ok(map)
    }

    /// A commit in parts counts with its last part, which `point` ends with: every record up to it is whole.
    fn add(&mut self, index: LogIndex, span: usize, point: &LogPoint) -> Result<(), OpsError> {
        let object = self.objects.len();
        let mut places = index.images()?.into_iter();
        let short = Corrupt::Rule { what: "a log object", rule: "every page of a record has its image" };
        for record in &index.records {
            let is_ours = usize::from(record.span) == span && record.tx <= point.tx;
            for page in &record.pages {
                let (frame, at) = places.next().ok_or(short.clone())?;
                if is_ours {
                    self.images.insert(*page, Image { object, frame, at, len: record.page_size.get() });
                }
            }
            if is_ours && record.part.completes() {
                self.end(record);
            }
        }
        self.objects.push(index);
        Ok(())
    }

    fn end(&mut self, record: &Record) {
        let count = record.page_count;
        if self.shape.is_some_and(|(_, before)| count < before) || self.shape.is_none() {
            self.images.retain(|page, _| *page <= count);
        }
        self.kept = self.kept.min(count);
        self.shape = Some((record.page_size.get(), count));
    }

    /// Bytes of a page and number of pages, if the log says.
    pub fn shape(&self) -> Option<(u32, u32)> {
        self.shape
    }

    pub fn find(&self, page: u32) -> Lies {
        match (self.images.get(&page), self.shape) {
            (_, Some((_, count))) if page == 0 || page > count => Lies::Beyond,
            (Some(image), _) => Lies::InLog(*image),
            (None, _) if page > self.kept => Lies::Nowhere,
            (None, _) => Lies::InSnapshot,
        }
    }

    /// The opened frame an image lies in, which has its neighbours as well.
    pub async fn frame(&self, vault: &Vault, image: &Image) -> Result<Vec<u8>, OpsError> {
        let beyond = Corrupt::Rule { what: "an image", rule: "its object is one of the map" };
        let index = self.objects.get(image.object).ok_or(beyond)?;
        Ok(vault.repo.log_frame(index, &image.frame).await?)
    }

    /// One page of the log.
    pub async fn read(&self, vault: &Vault, image: &Image) -> Result<Vec<u8>, OpsError> {
        let raw = self.frame(vault, image).await?;
        let range = image.at as usize..image.at as usize + image.len as usize;
        let rule = Corrupt::Rule { what: "an image", rule: "it lies inside its frame" };
        Ok(raw.get(range).map(<[u8]>::to_vec).ok_or(rule)?)
    }
}
