//! Counts the effects of a run, and stops it at a chosen one.
//!
//! An effect is anything that could be the last thing a process did: a store verb, a write, an fsync.
//! Each asks `step` first. After the chosen one every later effect fails too, because the process is
//! dead: code under test that goes on regardless can change nothing any more. A harness runs
//! `stop_at = 0, 1, ...` until one run is not stopped, and then knows N and every name that was a
//! stop point.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A shared count of effects; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    stop_at: Option<u64>,
    seen: Vec<&'static str>,
    stopped: Option<Stopped>,
}

/// The run ended before this effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stopped at effect {at}: {name}")]
pub struct Stopped {
    pub at: u64,
    pub name: &'static str,
}

impl Effects {
    /// Counts and never stops.
    pub fn unstopped() -> Self {
        Self::default()
    }

    /// Lets effects `0..at` happen and none from `at` on.
    pub fn stop_at(at: u64) -> Self {
        let state = State { stop_at: Some(at), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Asks whether this effect may still happen.
    pub fn step(&self, name: &'static str) -> Result<(), Stopped> {
        let mut state = self.lock();
        if let Some(stopped) = &state.stopped {
            return Err(stopped.clone());
        }
        let at = state.seen.len() as u64;
        state.seen.push(name);
        if state.stop_at == Some(at) {
            let stopped = Stopped { at, name };
            state.stopped = Some(stopped.clone());
            return Err(stopped);
        }
        Ok(())
    }

    /// Where the run was stopped, if it was.
    pub fn stopped(&self) -> Option<Stopped> {
        self.lock().stopped.clone()
    }

    /// How many effects were asked for, the one that stopped the run among them.
    pub fn count(&self) -> u64 {
        self.lock().seen.len() as u64
    }

    /// How often each effect was asked for.
    pub fn seen(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for name in &self.lock().seen {
            *counts.entry(*name).or_default() += 1;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stopping a run at every effect in turn has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// How many effects one whole run has, and so how many runs were stopped.
    pub effects: u64,
    /// How many runs were stopped at an effect of each name.
    pub stops: BTreeMap<&'static str, u64>,
}

impl Sweep {
    /// Fails unless each of these was a stop point at least once.
    pub fn assert_stopped_at(&self, names: &[&str]) {
        let missing: Vec<&&str> = names.iter().filter(|name| !self.stops.contains_key(**name)).collect();
        assert!(missing.is_empty(), "never a stop point: {missing:?}; stopped at {:?}", self.stops);
    }
}

/// Runs `run` stopped at effect 0, then 1, and so on, until a run is not stopped.
///
/// `run` makes its world afresh, does the work, and asserts what must hold afterwards. A run whose
/// number of effects never ends is a bug of the work: `most` runs are made at the utmost.
pub async fn stop_at_every_effect(what: &str, most: u64, run: impl AsyncFn(Effects)) -> Sweep {
    let mut stops = BTreeMap::new();
    for at in 0..most {
        let effects = Effects::stop_at(at);
        run(effects.clone()).await;
        match effects.stopped() {
            Some(stopped) => *stops.entry(stopped.name).or_default() += 1,
            None => {
                println!("{what}: stopped at each of {at} effects: {stops:?}");
                return Sweep { effects: at, stops };
            }
        }
    }
    panic!("{what}: still stopped after {most} runs: {stops:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_stopped_nothing_happens_any_more() {
        let effects = Effects::stop_at(1);
        let other_hand = effects.clone();
        assert_eq!(effects.step("put"), Ok(()));
        assert_eq!(effects.stopped(), None);
        let stopped = Stopped { at: 1, name: "sync" };
        assert_eq!(other_hand.step("sync"), Err(stopped.clone()));
        assert_eq!(effects.step("put"), Err(stopped.clone()));
        assert_eq!(effects.stopped(), Some(stopped));
        assert_eq!((effects.count(), effects.seen()), (2, BTreeMap::from([("put", 1), ("sync", 1)])));
    }

    #[tokio::test]
    async fn every_effect_is_a_stop_point_once() {
        let sweep = stop_at_every_effect("three steps", 10, async |effects| {
            for name in ["write", "write", "sync"] {
                if effects.step(name).is_err() {
                    break;
                }
            }
        })
        .await;
        assert_eq!(sweep, Sweep { effects: 3, stops: BTreeMap::from([("write", 2), ("sync", 1)]) });
        sweep.assert_stopped_at(&["write", "sync"]);
    }

    #[tokio::test]
    #[should_panic(expected = "never a stop point: [\"rename\"]")]
    async fn a_missing_stop_point_is_a_failure() {
        let sweep = stop_at_every_effect("one step", 10, async |effects| drop(effects.step("write"))).await;
        sweep.assert_stopped_at(&["write", "rename"]);
    }

    #[tokio::test]
    #[should_panic(expected = "still stopped after 10 runs")]
    async fn work_that_never_ends_is_a_failure() {
        stop_at_every_effect("for ever", 10, async |effects| while effects.step("spin").is_ok() {}).await;
    }
}
