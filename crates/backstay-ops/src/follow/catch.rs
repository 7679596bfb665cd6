//! The half that reads: commits from the log into a spool, numbered and timed.
//!
//! Never uploads and never waits for a store. Bounded: past `spool_max` it lets the log go, and past
//! `log_max` it holds the log no longer than a step, so that the application can begin it anew. What
//! is lost to sight then is noticed by the next step, and following begins anew.

use super::memory::Standing;
use crate::OpsError;
use backstay_format::log::{Part, Record};
use backstay_model::{ByteLen, Clock, Moment, Tx};
use backstay_sqlite::{Caught, Commit, Images, LogCursor, Seen, SqliteError, Tail};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Raw images in one log object.
const IMAGES_MAX: u64 = 16 << 20;
/// Bytes of records in one log object, which are one frame.
const RECORDS_MAX: usize = 512 << 10;

/// How following behaves towards others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Between two looks at the log: what an application may wait for our mark.
    pub look: Duration,
    /// How long the application's log may become before it is not held any more.
    pub log_max: ByteLen,
    /// What may be read and not yet be durable.
    pub spool_max: ByteLen,
}

impl Limits {
    pub const STANDARD: Limits =
        Limits { look: Duration::from_millis(50), log_max: ByteLen::new(64 << 20), spool_max: ByteLen::new(1 << 30) };
}

struct Queued {
    tx: Tx,
    time: Moment,
    commit: Commit,
    images: Arc<Images>,
    /// How many of its pages are in objects already.
    sent: usize,
}

/// A commit, or the part of it that goes into one object.
pub struct Piece {
    pub part: Part,
    pub tx: Tx,
    pub time: Moment,
    pub page_count: u32,
    pub pages: Vec<(u32, u64)>,
    pub images: Arc<Images>,
    /// The end of the commit.
    pub end: LogCursor,
}

pub struct Catcher {
    tail: Tail,
    cursor: LogCursor,
    /// The number and time given last.
    tx: Tx,
    time: Moment,
    queue: VecDeque<Queued>,
    bytes: u64,
    limits: Limits,
    lost: Option<String>,
    clock: Arc<dyn Clock>,
}

impl Catcher {
    pub fn new(tail: Tail, from: &Standing, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let (tx, time, cursor) = (from.tx, from.time, from.cursor.clone());
        Self { tail, cursor, tx, time, queue: VecDeque::new(), bytes: 0, limits, lost: None, clock }
    }

    pub fn waiting(&self) -> u64 {
        self.queue.len() as u64
    }

    pub fn waiting_bytes(&self) -> u64 {
        self.bytes
    }

    pub fn release(&mut self) {
        self.tail.release();
    }

    /// Why following must begin anew, once everything caught before is durable.
    pub fn lost(&self) -> Option<String> {
        self.lost.clone().filter(|_| self.queue.is_empty())
    }

    /// Reads what was committed since the last time. Gives the number of commits.
    pub fn catch(&mut self) -> Result<u64, OpsError> {
        if self.lost.is_some() {
            return Ok(0);
        }
        if self.bytes >= self.limits.spool_max.get() {
            self.tail.release();
            return Ok(0);
        }
        match self.tail.look().and_then(|seen| match seen {
            Seen::Nothing => Ok(None),
            Seen::News | Seen::InTheWay => self.tail.advance(&self.cursor).map(Some),
        }) {
            Ok(None) => Ok(0),
            Ok(Some(Ok(caught))) => {
                let count = caught.commits.len() as u64;
                self.take(caught);
                if self.tail.log_len() > self.limits.log_max.get() {
                    self.tail.release();
                }
                Ok(count)
            }
            Ok(Some(Err(lost))) => {
                self.lost = Some(lost.to_string());
                Ok(0)
            }
            Err(SqliteError::Replaced { .. }) => {
                self.lost = Some("another file stands at its path".to_owned());
                Ok(0)
            }
            // Somebody has it locked whole, for a recovery or a last close: the hold stays, the next look goes on.
            Err(SqliteError::Locked { .. }) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Numbers and times commits, and keeps them for the shipper.
    pub fn take(&mut self, caught: Caught) {
        let images = Arc::new(caught.images);
        for commit in caught.commits {
            let Some(tx) = self.tx.next() else { break };
            let least = Moment::from_millis(self.time.as_millis() + 1).unwrap_or(self.time);
            (self.tx, self.time) = (tx, self.clock.now().max(least));
            self.bytes += commit.pages.len() as u64 * u64::from(commit.end.page_size);
            self.queue.push_back(Queued { tx, time: self.time, commit, images: images.clone(), sent: 0 });
        }
        self.cursor = caught.end;
    }

    /// As many whole commits as fit into one object, or a part of one that does not fit.
    pub fn next_pieces(&mut self) -> Vec<Piece> {
        let (mut pieces, mut images, mut records) = (Vec::new(), 0, 0);
        while let Some(front) = self.queue.front_mut() {
            let size = u64::from(front.commit.end.page_size);
            let left = front.commit.pages.len() - front.sent;
            let fits = |pages: usize| {
                images + pages as u64 * size <= IMAGES_MAX && records + Record::encoded_len(pages) <= RECORDS_MAX
            };
            let take = match fits(left) {
                true => left,
                false if !pieces.is_empty() => break,
                false => usize::try_from(IMAGES_MAX / size).unwrap_or(left).min(RECORDS_MAX / 8).min(left),
            };
            let part = match (front.sent == 0, take == left) {
                (true, true) => Part::Whole,
                (true, false) => Part::First,
                (false, false) => Part::Middle,
                (false, true) => Part::Last,
            };
            let pages = front.commit.pages.iter().skip(front.sent).take(take).copied().collect();
            front.sent += take;
            images += take as u64 * size;
            records += Record::encoded_len(take);
            pieces.push(Piece {
                part,
                tx: front.tx,
                time: front.time,
                page_count: front.commit.page_count,
                pages,
                images: front.images.clone(),
                end: front.commit.end.clone(),
            });
            if !part.completes() {
                break;
            }
            self.bytes = self.bytes.saturating_sub(front.commit.pages.len() as u64 * size);
            self.queue.pop_front();
        }
        pieces
    }
}
