//! Fronts of a stream's objects, asked for before they are needed: a roll-up where one begins, else what is in the slot.
//!
//! A walk reads one small front after another, and over a network it would mostly wait: a day of following is hundreds
//! of thousands of objects. How many are under way doubles with each one that was there, so a short log costs no more
//! requests than it has objects, and nothing is asked for behind a slot known to be empty.

use super::rolled::Rolled;
use backstay_model::{Sequence, StreamId};
use backstay_store::keys::LogName;
use backstay_store::repo::{LogFront, RepoError, Repository};
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::JoinSet;

/// Fronts under way at most.
const WIDTH_MAX: usize = 32;

type Found = Result<Option<LogFront>, RepoError>;

pub struct Ahead {
    repo: Repository,
    stream: StreamId,
    rolled: Rolled,
    /// The next slot to ask for.
    next: Option<Sequence>,
    /// How many at once.
    width: usize,
    under_way: JoinSet<(LogName, Found)>,
    /// By the slot they begin at.
    found: BTreeMap<Sequence, (LogName, Found)>,
}

impl Ahead {
    /// Lists the roll-ups of the stream, which are better than its slots and never needed for what is there.
    pub async fn of(
        repo: &Repository,
        stream: StreamId,
        first: Sequence,
        without: &BTreeSet<LogName>,
    ) -> Result<Self, RepoError> {
        let mut rolled = Rolled::of(repo, &stream).await?;
        without.iter().for_each(|name| rolled.forget(name));
        let (under_way, found) = (JoinSet::new(), BTreeMap::new());
        Ok(Self { repo: repo.clone(), stream, rolled, next: Some(first), width: 1, under_way, found })
    }

    /// The front of what begins at a slot. Slots are asked for in order, each behind the last of what was found.
    pub async fn front(&mut self, wanted: Sequence) -> Found {
        loop {
            self.ask(wanted);
            if let Some((name, found)) = self.found.remove(&wanted) {
                match (&found, name.is_rolled()) {
                    // What lies in the slots says the same.
                    (Err(error), true) if error.is_outage() && !error.is_unreadable() => {}
                    (Ok(None) | Err(_), true) => {
                        self.forget(&name);
                        continue;
                    }
                    (Ok(Some(_)), _) => self.width = (self.width * 2).min(WIDTH_MAX),
                    _ => {}
                }
                return found;
            }
            match self.under_way.join_next().await {
                Some(Ok((name, found))) => {
                    if !name.is_rolled() && !matches!(found, Ok(Some(_))) {
                        self.next = None;
                    }
                    self.found.insert(name.first, (name, found));
                }
                // It was lost with its task, or never asked for: it is asked for by itself.
                Some(Err(_)) | None => return self.repo.log_front(&self.stream, wanted).await,
            }
        }
    }

    /// A roll-up that cannot be read: what else begins where it does is asked for.
    fn forget(&mut self, name: &LogName) {
        self.rolled.forget(name);
        self.under_way = JoinSet::new();
        self.found.clear();
        (self.next, self.width) = (Some(name.first), 1);
    }

    fn ask(&mut self, wanted: Sequence) {
        while let Some(next) = self.next.filter(|next| *next <= wanted || self.under_way.len() < self.width) {
            // What was found and not taken yet counts as well.
            if next > wanted && self.under_way.len() + self.found.len() >= self.width {
                break;
            }
            let (repo, name) = (self.repo.clone(), self.rolled.at(self.stream, next));
            self.under_way.spawn(async move { (name, repo.log_front_of(&name).await) });
            self.next = name.last.next();
        }
    }
}
