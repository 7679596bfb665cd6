//! Fronts of a stream's objects, asked for before they are needed.
//!
//! A walk reads one small front after another, and over a network it would mostly wait: a day of following is hundreds
//! of thousands of objects. How many are under way doubles with each one that was there, so a short log costs no more
//! requests than it has objects, and nothing is asked for behind a slot known to be empty.

use backstay_model::{Sequence, StreamId};
use backstay_store::repo::{LogFront, RepoError, Repository};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// Fronts under way at most.
const WIDTH_MAX: u64 = 32;

type Found = Result<Option<LogFront>, RepoError>;

pub struct Ahead {
    repo: Repository,
    stream: StreamId,
    /// The next slot to ask for.
    next: Option<Sequence>,
    /// How far beyond the one that is wanted.
    width: u64,
    under_way: JoinSet<(Sequence, Found)>,
    found: BTreeMap<Sequence, Found>,
}

impl Ahead {
    pub fn of(repo: &Repository, stream: StreamId, first: Sequence) -> Self {
        let (under_way, found) = (JoinSet::new(), BTreeMap::new());
        Self { repo: repo.clone(), stream, next: Some(first), width: 1, under_way, found }
    }

    /// The front in a slot. Slots are asked for in order.
    pub async fn front(&mut self, wanted: Sequence) -> Found {
        loop {
            self.ask(wanted);
            if let Some(found) = self.found.remove(&wanted) {
                if let Ok(Some(_)) = found {
                    self.width = (self.width * 2).min(WIDTH_MAX);
                }
                return found;
            }
            match self.under_way.join_next().await {
                Some(Ok((sequence, found))) => {
                    if !matches!(found, Ok(Some(_))) {
                        self.next = None;
                    }
                    self.found.insert(sequence, found);
                }
                // It was lost with its task, or never asked for: it is asked for by itself.
                Some(Err(_)) | None => return self.repo.log_front(&self.stream, wanted).await,
            }
        }
    }

    fn ask(&mut self, wanted: Sequence) {
        let until = wanted.get().saturating_add(self.width);
        while let Some(next) = self.next.filter(|next| next.get() < until) {
            let (repo, stream) = (self.repo.clone(), self.stream);
            self.under_way.spawn(async move { (next, repo.log_front(&stream, next).await) });
            self.next = next.next();
        }
    }
}
