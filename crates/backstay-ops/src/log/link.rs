//! One object of a log on the way to a state, and the commits it has of one source.

use super::Rolled;
use crate::OpsError;
use backstay_format::facts::Span;
use backstay_format::log::Record;
use backstay_model::{Digest, Kind, Kinded, Moment, Tx};
use backstay_store::keys::LogName;
use backstay_store::repo::{LogFront, LogIndex, LogObject, Repository};
use backstay_store::seal::Unsealer;

/// A roll-up or what is in a slot, and the states it completes.
#[derive(Debug, Clone)]
pub struct Link {
    pub name: LogName,
    pub digest: Digest,
    pub span: Span,
}

/// Commits of one source, in their order.
#[derive(Default)]
pub struct Commits {
    pub records: Vec<Record>,
    /// The images of all of them up to the state that was asked for, one after another.
    pub images: Vec<u8>,
}

impl Commits {
    fn append(&mut self, mut later: Self) {
        self.records.append(&mut later.records);
        self.images.append(&mut later.images);
    }

    /// Without those that lead to a state or one before it.
    pub(crate) fn behind(mut self, tx: Tx) -> Self {
        let known = self.records.iter().take_while(|record| record.tx <= tx);
        let bytes: u64 = known.map(|record| record.pages.len() as u64 * record.page_size.bytes()).sum();
        self.images.drain(..usize::try_from(bytes).unwrap_or(usize::MAX).min(self.images.len()));
        self.records.retain(|record| record.tx > tx);
        self
    }
}

impl Link {
    /// The whole object: this one, and no other that stands there by now.
    async fn object(&self, repo: &Repository) -> Result<LogObject, OpsError> {
        let object = repo.log_object_of(&self.name).await?;
        object.filter(|object| object.front.digest == self.digest).ok_or(self.hole())
    }

    /// What it holds and where.
    pub async fn index(&self, repo: &Repository, unsealer: &Unsealer) -> Result<LogIndex, OpsError> {
        let index = repo.log_index(&self.name, unsealer).await?;
        index.filter(|index| index.front.digest == self.digest).ok_or(self.hole())
    }

    /// Its records, without those of other sources.
    pub async fn records(&self, repo: &Repository, unsealer: &Unsealer) -> Result<Vec<Record>, OpsError> {
        Ok(self.commits(repo, unsealer, None).await?.records)
    }

    /// The states its commits lead to, and when they were made. Reads no image where it need not.
    pub async fn states(&self, repo: &Repository, unsealer: &Unsealer) -> Result<Vec<(Tx, Moment)>, OpsError> {
        let records = match self.index(repo, unsealer).await {
            Ok(LogIndex { front, mut records, .. }) => {
                records.retain(|record| self.has(&front, record));
                records
            }
            Err(_) => self.records(repo, unsealer).await?,
        };
        let whole = records.iter().filter(|record| record.part.completes());
        Ok(whole.map(|record| (record.tx, record.time)).collect())
    }

    /// Its commits, with images up to a state. Of a roll-up that is damaged, or does not have what it says, those
    /// of what it was made of: every record has a digest that says whether it is the one.
    pub async fn commits(
        &self,
        repo: &Repository,
        unsealer: &Unsealer,
        images: Option<Tx>,
    ) -> Result<Commits, OpsError> {
        let read = match self.object(repo).await {
            Ok(object) => self.open(&object, unsealer, images, Commits::default()),
            Err(error) => Err(error),
        };
        match read {
            Ok(commits) if self.is_whole(&commits.records) => Ok(commits),
            Err(error) if error.kind() != Kind::Corrupt => Err(error),
            other if !self.name.is_rolled() => other,
            other => match self.parts(repo, unsealer, images).await? {
                Some(commits) => Ok(commits),
                None => other.and(Err(self.hole())),
            },
        }
    }

    /// The same from what it was made of; nothing if that is not all there.
    async fn parts(
        &self,
        repo: &Repository,
        unsealer: &Unsealer,
        images: Option<Tx>,
    ) -> Result<Option<Commits>, OpsError> {
        let rolled = Rolled::of(repo, &self.name.stream).await?;
        let (mut commits, mut slot) = (Commits::default(), self.name.first);
        while slot <= self.name.last {
            let mut whole = None;
            for part in rolled.within(&self.name, slot) {
                let object = match repo.log_object_of(&part).await {
                    Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
                    other => other.ok().flatten(),
                };
                let read = object.map(|object| self.open(&object, unsealer, images, Commits::default()));
                if let Some(Ok(read)) = read {
                    whole = Some((part, read));
                    break;
                }
            }
            let Some((part, read)) = whole else { return Ok(None) };
            commits.append(read);
            let Some(next) = part.last.next() else { break };
            slot = next;
        }
        Ok(Some(commits).filter(|commits| self.is_whole(&commits.records)))
    }

    /// What an object that was read has of it, behind what was read before.
    pub(crate) fn open(
        &self,
        object: &LogObject,
        unsealer: &Unsealer,
        until: Option<Tx>,
        mut commits: Commits,
    ) -> Result<Commits, OpsError> {
        let is_ours = |record: &Record| self.has(&object.front, record);
        let is_wanted = |record: &Record| until.is_some_and(|until| record.tx <= until) && is_ours(record);
        let all = object.open::<OpsError>(unsealer, |records, at, _, bytes| {
            if records.get(at).is_some_and(is_wanted) {
                commits.images.extend_from_slice(bytes);
            }
            Ok(())
        })?;
        commits.records.extend(all.into_iter().filter(is_ours));
        Ok(commits)
    }

    /// Whether a record of an object is one of its commits.
    pub(super) fn has(&self, front: &LogFront, record: &Record) -> bool {
        let span = front.facts.spans.get(usize::from(record.span));
        let same = span.is_some_and(|span| span.source == self.span.source && span.branch == self.span.branch);
        same && (self.span.first..=self.span.last).contains(&record.tx)
    }

    /// Whether these are the records that its span names, as far as numbers say.
    pub(crate) fn is_whole(&self, records: &[Record]) -> bool {
        let ends = records.first().zip(records.last()).map(|(first, last)| (first.tx, last.tx));
        let goes_on = |pair: &[Record]| matches!(pair, [before, after] if before.tx == after.tx || before.tx.next() == Some(after.tx));
        ends == Some((self.span.first, self.span.last)) && records.windows(2).all(goes_on)
    }

    fn hole(&self) -> OpsError {
        OpsError::LogHole { stream: self.name.stream, sequence: self.name.first }
    }
}
