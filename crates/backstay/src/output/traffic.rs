//! What a command asked of the repository's store: counted at the wire, every attempt.

use super::{Page, counted};
use backstay_model::ByteLen;
use backstay_store::Verb;
use backstay_store::meter::{Meter, Reading};
use std::sync::{Arc, Mutex, PoisonError};

/// Every meter of this run; `init` opens more than one store.
#[derive(Default)]
pub struct Meters(Mutex<Vec<(Arc<Meter>, Distance)>>);

/// Whether a store is behind a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    Here,
    Far,
}

impl Meters {
    pub fn add(&self, meter: Arc<Meter>, distance: Distance) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((meter, distance));
    }

    pub fn read(&self) -> Traffic {
        let meters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = meters.iter().fold(Reading::default(), |sum, (meter, _)| sum.and(&meter.read()));
        Traffic::of(&sum, meters.iter().any(|(_, distance)| *distance == Distance::Far))
    }
}

/// What went to the store and came back, attempts that failed included.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    pub requests: u64,
    /// Without an answer, or with another answer than what was asked for.
    pub failed: u64,
    /// Bytes of objects that were stored.
    pub sent: u64,
    /// Bytes of objects that were read.
    pub received: u64,
    pub put: u64,
    pub get: u64,
    pub get_range: u64,
    pub head: u64,
    pub list: u64,
    pub delete: u64,
    #[serde(skip)]
    far: bool,
}

impl Traffic {
    fn of(reading: &Reading, far: bool) -> Self {
        let calls = |verb| reading.of(verb).calls;
        Self {
            requests: reading.calls(),
            failed: reading.failures(),
            sent: reading.bytes_sent,
            received: reading.bytes_received,
            put: calls(Verb::PutNew),
            get: calls(Verb::Get),
            get_range: calls(Verb::GetRange),
            head: calls(Verb::Head),
            list: calls(Verb::List),
            delete: calls(Verb::Delete),
            far,
        }
    }

    /// One line, for a repository that is behind a network.
    pub fn render(&self, page: &mut Page) {
        if !self.far {
            return;
        }
        let (sent, received) = (ByteLen::new(self.sent), ByteLen::new(self.received));
        let failed = if self.failed > 0 { format!(", {} of them failed", self.failed) } else { String::new() };
        let requests = counted(self.requests, "request");
        page.evidence("store", &format!("{requests}{failed}; {sent} sent, {received} received"));
    }
}
