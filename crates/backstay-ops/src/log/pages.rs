//! Where each page of each state behind a snapshot lies: in the snapshot, or in which frame of which object of the log.
//!
//! For whoever reads single pages and does not write a state out. Built once from the records alone, without their
//! images; from one state to another it is then a matter of looking up. A page read through it has passed its frame's
//! tag, and comes from an object whose signature holds.

use super::{Link, LogPoint, Rolled};
use crate::OpsError;
use crate::catalog::Vault;
use backstay_format::log::Record;
use backstay_format::{Corrupt, FramePlace};
use backstay_model::{Kind, Kinded, Moment, ObjectId, PageSize, Tx};
use backstay_store::keys::LogName;
use backstay_store::repo::{LogIndex, Repository};
use backstay_store::seal::Unsealer;
use futures::{StreamExt, stream};
use std::collections::HashMap;
use std::sync::Arc;

/// Objects whose records are fetched at once.
const FETCHED_AT_ONCE: usize = 8;

/// A commit of a log, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub tx: Tx,
    pub at: Moment,
    /// Of the database after it.
    pub pages: u32,
    pub written: Vec<u32>,
}

/// The pages of every state behind a snapshot, as far as its log wrote them.
#[derive(Default)]
pub struct PageMaps {
    commits: Vec<Commit>,
    /// Of all commits: a log whose pages change their size begins anew.
    page_size: Option<PageSize>,
    /// Where the database became shorter than it was.
    cuts: Vec<(Tx, u32)>,
    /// By page, in the order of the states that they belong to.
    images: HashMap<u32, Vec<(Tx, Image)>>,
    /// Each with what it is read for.
    objects: Vec<(LogIndex, Vec<Link>)>,
    by_id: HashMap<ObjectId, usize>,
}

/// The pages of one state.
#[derive(Clone)]
pub struct PageMap {
    maps: Arc<PageMaps>,
    tx: Tx,
}

/// An image of a page in a log object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Image {
    /// Which object, in the order of the log.
    pub object: u32,
    pub frame: FramePlace,
    /// Where it begins in the opened frame.
    pub at: u32,
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

impl PageMaps {
    /// Reads the records of a snapshot's log, up to a state.
    pub async fn read(vault: &Vault, links: &[Link], last: Tx) -> Result<Arc<Self>, OpsError> {
        let (mut maps, unsealer) = (Self::default(), vault.unsealer()?);
        // An object may have several spans of a source.
        let reads = links.chunk_by(|a, b| a.digest == b.digest).map(|of_one| async move {
            let link = of_one.first()?;
            Some((of_one, indexed(&vault.repo, unsealer, link).await))
        });
        let mut reads = stream::iter(reads).buffered(FETCHED_AT_ONCE);
        let mut next = links.first().map(|link| link.span.first);
        while let Some(read) = reads.next().await {
            vault.env.cancel.check()?;
            let Some((of_one, index)) = read else { continue };
            for index in index? {
                maps.add(index, of_one, (&mut next, last))?;
            }
        }
        if maps.commits.last().map_or(next.is_some_and(|first| first <= last), |commit| commit.tx != last) {
            return Err(broken("the log leads to the state that was chosen"));
        }
        Ok(Arc::new(maps))
    }

    /// `next` is the state that the next record leads to.
    fn add(
        &mut self,
        mut index: LogIndex,
        links: &[Link],
        (next, last): (&mut Option<Tx>, Tx),
    ) -> Result<(), OpsError> {
        let object = u32::try_from(self.objects.len()).map_err(|_| broken("it has no end"))?;
        let mut places = index.images()?.into_iter();
        // What they say is in the map then.
        for record in &std::mem::take(&mut index.records) {
            let is_ours = record.tx <= last && links.iter().any(|link| link.has(&index.front, record));
            if is_ours && Some(record.tx) != *next {
                return Err(broken("its states follow one another"));
            }
            for page in &record.pages {
                let (frame, at) = places.next().ok_or(broken("every page of a record has its image"))?;
                if is_ours {
                    self.image(*page, (record.tx, Image { object, frame, at }));
                }
            }
            if is_ours {
                self.record(record)?;
            }
            if is_ours && record.part.completes() {
                *next = record.tx.next();
            }
        }
        self.by_id.insert(index.id, self.objects.len());
        self.objects.push((index, links.to_vec()));
        Ok(())
    }

    fn image(&mut self, page: u32, new: (Tx, Image)) {
        let of_page = self.images.entry(page).or_default();
        match of_page.last_mut().filter(|last| last.0 == new.0) {
            Some(same) => *same = new,
            None => of_page.push(new),
        }
    }

    /// A commit in parts counts with its last part.
    fn record(&mut self, record: &Record) -> Result<(), OpsError> {
        if *self.page_size.get_or_insert(record.page_size) != record.page_size {
            return Err(broken("its pages are of one size"));
        }
        let before = self.commits.iter().rev().find(|commit| commit.tx != record.tx);
        if before.is_none_or(|before| record.page_count < before.pages) && record.part.completes() {
            self.cuts.push((record.tx, record.page_count));
        }
        match self.commits.last_mut().filter(|commit| commit.tx == record.tx) {
            Some(commit) => {
                commit.pages = record.page_count;
                commit.written.extend(&record.pages);
            }
            None => self.commits.push(Commit {
                tx: record.tx,
                at: record.time,
                pages: record.page_count,
                written: record.pages.clone(),
            }),
        }
        Ok(())
    }

    /// Every commit, in order.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    fn commits_to(&self, tx: Tx) -> &[Commit] {
        self.commits.split_at(self.commits.partition_point(|commit| commit.tx <= tx)).0
    }

    /// The commit that leads to a state.
    pub fn commit(&self, tx: Tx) -> Option<&Commit> {
        self.commits_to(tx).last().filter(|commit| commit.tx == tx)
    }

    /// The commit right after a state.
    pub fn next(&self, tx: Tx) -> Option<&Commit> {
        self.commits.get(self.commits_to(tx).len())
    }

    fn find(&self, page: u32, tx: Tx) -> Lies {
        let Some(newest) = self.commits_to(tx).last() else { return Lies::InSnapshot };
        if page == 0 || page > newest.pages {
            return Lies::Beyond;
        }
        let cut_since = |since: Option<Tx>| {
            let cuts = self.cuts.iter().filter(|(at, pages)| *at <= tx && *pages < page);
            cuts.into_iter().any(|(at, _)| since.is_none_or(|since| *at > since))
        };
        let of_page = self.images.get(&page).map(Vec::as_slice).unwrap_or_default();
        let image = of_page.partition_point(|(at, _)| *at <= tx).checked_sub(1).and_then(|at| of_page.get(at));
        match image {
            Some((at, image)) if !cut_since(Some(*at)) => Lies::InLog(*image),
            // The snapshot's page of this number was cut off, and what it has is not this one's.
            _ if cut_since(None) => Lies::Nowhere,
            _ => Lies::InSnapshot,
        }
    }

    /// The object of the log that has an id.
    pub fn object(&self, id: &ObjectId) -> Option<&LogIndex> {
        self.objects.get(*self.by_id.get(id)?).map(|(index, _)| index)
    }

    pub fn object_of(&self, image: &Image) -> Option<&LogIndex> {
        self.objects.get(image.object as usize).map(|(index, _)| index)
    }

    /// What a roll-up was made of, for whoever cannot read its images; `None` where that is not all there.
    pub async fn parts_of(
        &self,
        repo: &Repository,
        unsealer: &Unsealer,
        id: &ObjectId,
    ) -> Result<Option<Self>, OpsError> {
        let of_one = self.by_id.get(id).and_then(|at| self.objects.get(*at));
        let Some((index, links)) = of_one.filter(|(index, _)| index.front.name.is_rolled()) else { return Ok(None) };
        let Some(found) = parts(repo, unsealer, &index.front.name).await? else { return Ok(None) };
        let (mut maps, mut next) = (Self::default(), links.first().map(|link| link.span.first));
        for index in found {
            maps.add(index, links, (&mut next, Tx::new(u64::MAX)))?;
        }
        Ok(Some(maps))
    }

    /// The image that a commit wrote of a page.
    pub fn written_by(&self, tx: Tx, page: u32) -> Option<Image> {
        self.images.get(&page)?.iter().find(|(at, _)| *at == tx).map(|(_, image)| *image)
    }
}

/// The objects of a link: itself, or of a roll-up that is damaged those it was made of.
async fn indexed(repo: &Repository, unsealer: &Unsealer, link: &Link) -> Result<Vec<LogIndex>, OpsError> {
    match link.index(repo, unsealer).await {
        Ok(index) => Ok(vec![index]),
        Err(error) if !link.name.is_rolled() || error.kind() != Kind::Corrupt => Err(error),
        Err(error) => parts(repo, unsealer, &link.name).await?.ok_or(error),
    }
}

/// What a roll-up was made of, the smallest that is whole; nothing where some of it is in no other object.
async fn parts(repo: &Repository, unsealer: &Unsealer, name: &LogName) -> Result<Option<Vec<LogIndex>>, OpsError> {
    let rolled = Rolled::of(repo, &name.stream).await?;
    let (mut parts, mut slot) = (Vec::new(), name.first);
    while slot <= name.last {
        let mut whole = None;
        for part in rolled.within(name, slot) {
            // Its images as well: there is no other place to look for them then.
            let index = match repo.log_object_of(&part).await {
                Ok(Some(_)) => repo.log_index(&part, unsealer).await,
                other => other.map(|_| None),
            };
            match index {
                Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
                Ok(Some(index)) => whole = Some(index),
                _ => continue,
            }
            break;
        }
        let Some(index) = whole else { return Ok(None) };
        let next = index.front.name.last.next();
        parts.push(index);
        let Some(next) = next else { break };
        slot = next;
    }
    Ok(Some(parts))
}

fn broken(rule: &'static str) -> OpsError {
    Corrupt::Rule { what: "a log", rule }.into()
}

impl PageMap {
    /// Reads the records of every object that leads to a state.
    pub async fn of(vault: &Vault, point: &LogPoint) -> Result<Self, OpsError> {
        Ok(Self::at(PageMaps::read(vault, &point.links, point.tx).await?, point.tx))
    }

    /// One state among those of a log.
    pub fn at(maps: Arc<PageMaps>, tx: Tx) -> Self {
        Self { maps, tx }
    }

    pub fn maps(&self) -> &Arc<PageMaps> {
        &self.maps
    }

    pub fn tx(&self) -> Tx {
        self.tx
    }

    /// Bytes of a page and number of pages, if the log says.
    pub fn shape(&self) -> Option<(u32, u32)> {
        let newest = self.maps.commits_to(self.tx).last()?;
        Some((self.maps.page_size?.get(), newest.pages))
    }

    pub fn find(&self, page: u32) -> Lies {
        self.maps.find(page, self.tx)
    }

    /// The commit that wrote a page last.
    pub fn writer_of(&self, page: u32) -> Option<Tx> {
        let of_page = self.maps.images.get(&page)?;
        of_page.iter().rev().map(|(tx, _)| *tx).find(|tx| *tx <= self.tx)
    }

    /// The pages that the log wrote up to this state, in no order.
    pub fn written(&self) -> impl Iterator<Item = u32> + '_ {
        let is_older = |at: &(Tx, Image)| at.0 <= self.tx;
        self.maps.images.iter().filter(move |(_, all)| all.first().is_some_and(is_older)).map(|(page, _)| *page)
    }

    /// One page of the log.
    pub async fn read(&self, vault: &Vault, image: &Image) -> Result<Vec<u8>, OpsError> {
        let index = self.maps.object_of(image).ok_or(broken("an image lies in an object of it"))?;
        let raw = vault.repo.log_frame(index, &image.frame).await?;
        let len = self.maps.page_size.map_or(0, PageSize::get);
        let range = image.at as usize..(image.at as usize).saturating_add(len as usize);
        raw.get(range).map(<[u8]>::to_vec).ok_or(broken("an image lies inside its frame"))
    }
}
