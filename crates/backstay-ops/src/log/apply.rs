//! Writing a log over the snapshot it comes after.
//!
//! Every record is compared with the digest it was captured under, and that with everything before it.

use super::LogPoint;
use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::{At, DiskFile};
use backstay_format::fingerprint::{CommitHasher, RecordHasher};
use backstay_format::log::Record;
use backstay_format::{Corrupt, FingerprintKey};
use backstay_model::catalog::Snapshot;
use backstay_model::{Digest, Tx};
use backstay_store::seal::Unsealer;
use std::path::Path;

/// Where the pages of a log go.
pub struct Onto<'a> {
    pub file: &'a dyn DiskFile,
    pub path: &'a Path,
}

/// Writes a log over the snapshot it comes after, up to a state. Every record is compared with the digest
/// it was captured under, and that with everything before it.
pub async fn apply(
    vault: &Vault,
    point: &LogPoint,
    snapshot: (&Snapshot, &FingerprintKey),
    onto: &Onto<'_>,
) -> Result<(), OpsError> {
    let (snapshot, key) = snapshot;
    let mut applying = Applying {
        hasher: key.commits(),
        complete: snapshot.root,
        running: snapshot.root,
        tx: of_first(point),
        length: None,
        open: None,
    };
    for link in &point.links {
        vault.env.cancel.check()?;
        let object = vault.repo.log_object(&link.stream, link.sequence).await?;
        let hole = OpsError::LogHole { stream: link.stream, sequence: link.sequence };
        let object = object.filter(|object| object.front.digest == link.digest).ok_or(hole)?;
        let spans = &object.front.facts.spans;
        let span = spans.iter().position(|span| *span == link.span).unwrap_or(usize::MAX);
        crate::env::blocking(|| applying.object(&object, (span, point.tx), vault.unsealer()?, onto))?;
    }
    if applying.tx != point.tx {
        return Err(broken("the log leads to the state that was chosen"));
    }
    if let Some(length) = applying.length {
        onto.file.set_len(length).at("set the length of", onto.path)?;
        onto.file.sync().at("sync", onto.path)?;
    }
    Ok(())
}

fn of_first(point: &LogPoint) -> Tx {
    Tx::new(point.links.first().map_or(point.tx.get(), |link| link.span.first.get().saturating_sub(1)))
}

fn broken(rule: &'static str) -> OpsError {
    Corrupt::Rule { what: "a log", rule }.into()
}

struct Applying {
    hasher: CommitHasher,
    complete: Digest,
    running: Digest,
    /// The last complete state.
    tx: Tx,
    length: Option<u64>,
    open: Option<(usize, RecordHasher)>,
}

impl Applying {
    fn object(
        &mut self,
        object: &backstay_store::repo::LogObject,
        (span, last): (usize, Tx),
        unsealer: &Unsealer,
        onto: &Onto<'_>,
    ) -> Result<(), OpsError> {
        let mut done = 0;
        let is_ours = |record: &Record| usize::from(record.span) == span && record.tx <= last;
        let records = object.open::<OpsError>(unsealer, |records, at, page, bytes| {
            while done < at {
                self.end(records.get(done).filter(|r| is_ours(r)), done)?;
                done += 1;
            }
            let Some(record) = records.get(at).filter(|record| is_ours(record)) else { return Ok(()) };
            let hasher = self.begin(record, at);
            hasher.page(page, bytes);
            let offset = u64::from(page - 1) * record.page_size.bytes();
            Ok(onto.file.write_at(offset, bytes).at("write", onto.path)?)
        })?;
        for (at, record) in records.iter().enumerate().skip(done) {
            self.end(Some(record).filter(|record| is_ours(record)), at)?;
        }
        Ok(())
    }

    fn begin(&mut self, record: &Record, at: usize) -> &mut RecordHasher {
        let fresh = || {
            let previous = if record.part.begins() { &self.complete } else { &self.running };
            (at, self.hasher.record(previous, record))
        };
        let open = match self.open.take() {
            Some(open) if open.0 == at => open,
            _ => fresh(),
        };
        &mut self.open.insert(open).1
    }

    fn end(&mut self, record: Option<&Record>, at: usize) -> Result<(), OpsError> {
        let Some(record) = record else { return Ok(()) };
        self.begin(record, at);
        let Some((_, hasher)) = self.open.take() else { return Ok(()) };
        if Some(record.tx) != self.tx.next() {
            return Err(broken("its states follow one another"));
        }
        let digest = hasher.finish();
        if digest != record.digest {
            return Err(broken("its records have the digests they were captured under"));
        }
        self.running = digest;
        if record.part.completes() {
            (self.complete, self.tx) = (digest, record.tx);
            self.length = Some(u64::from(record.page_count) * record.page_size.bytes());
        }
        Ok(())
    }
}
