//! Blocking work on several threads with results in order: the one place ops makes threads.
//!
//! Items are taken in order, worked on in parallel and handed to the sink in order. At most `window`
//! items are between being taken and being sunk, so memory is bounded whatever the number of items.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};

struct Queue<I, R> {
    items: I,
    taken: u64,
    sunk: u64,
    done: BTreeMap<u64, R>,
    exhausted: bool,
    stopped: bool,
}

struct Shared<I, R> {
    queue: Mutex<Queue<I, R>>,
    changed: Condvar,
    window: u64,
}

/// Runs `work` over `items` on `threads` threads; `sink` sees the results in the order of the items.
/// The first error, from either, ends it.
pub fn ordered<T, R, E, S>(
    threads: usize,
    items: impl Iterator<Item = T> + Send,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) -> Result<R, E> + Sync,
    mut sink: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E>
where
    T: Send,
    R: Send,
    E: Send,
{
    let threads = threads.max(1);
    let queue = Queue { items, taken: 0, sunk: 0, done: BTreeMap::new(), exhausted: false, stopped: false };
    let shared = Shared { queue: Mutex::new(queue), changed: Condvar::new(), window: threads as u64 * 2 };
    std::thread::scope(|scope| {
        // The sink runs here: if it panics, the scope would wait for workers that wait for it.
        let _guard = StopOnPanic(&shared);
        for _ in 0..threads {
            scope.spawn(|| {
                // Nor must a worker that panics leave the sink waiting for its result.
                let _guard = StopOnPanic(&shared);
                let mut own = scratch();
                while let Some((at, item)) = shared.take() {
                    let result = work(&mut own, item);
                    shared.give(at, result);
                }
            });
        }
        let outcome = loop {
            match shared.next() {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(result)) => {
                    if let Err(error) = sink(result) {
                        break Err(error);
                    }
                }
            }
        };
        shared.stop();
        outcome
    })
}

/// Runs `body` beside a thread that does the chore each time it is asked to. Asked while it is at it, it does it once
/// more afterwards, however often. A chore that fails is the last one, and its error is told when `body` went well.
pub fn beside<R, E: Send>(
    chore: impl Fn() -> Result<(), E> + Sync,
    body: impl FnOnce(&dyn Fn()) -> Result<R, E>,
) -> Result<R, E> {
    std::thread::scope(|scope| {
        let (ask, asked) = std::sync::mpsc::sync_channel(1);
        let chore = &chore;
        let doing = scope.spawn(move || asked.iter().try_for_each(|()| chore()));
        let outcome = body(&|| {
            // Full: it will be done anyhow. Closed: it failed.
            let _ = ask.try_send(());
        });
        drop(ask);
        let chores = doing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.and_then(|done| chores.map(|()| done))
    })
}

struct StopOnPanic<'a, I, R>(&'a Shared<I, R>);

impl<I, R> Drop for StopOnPanic<'_, I, R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

impl<I, R> Shared<I, R> {
    fn lock(&self) -> MutexGuard<'_, Queue<I, R>> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take<T>(&self) -> Option<(u64, T)>
    where
        I: Iterator<Item = T>,
    {
        let mut queue = self.lock();
        while !queue.stopped && !queue.exhausted && queue.taken - queue.sunk >= self.window {
            queue = self.changed.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if queue.stopped || queue.exhausted {
            return None;
        }
        match queue.items.next() {
            Some(item) => {
                queue.taken += 1;
                Some((queue.taken - 1, item))
            }
            None => {
                queue.exhausted = true;
                self.changed.notify_all();
                None
            }
        }
    }

    fn give(&self, at: u64, result: R) {
        self.lock().done.insert(at, result);
        self.changed.notify_all();
    }

    fn next(&self) -> Option<R> {
        let mut queue = self.lock();
        loop {
            let at = queue.sunk;
            if let Some(result) = queue.done.remove(&at) {
                queue.sunk += 1;
                self.changed.notify_all();
                return Some(result);
            }
            if queue.stopped || (queue.exhausted && queue.sunk == queue.taken) {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chore_is_done_beside_when_asked_and_its_failure_is_told() {
        let done = std::sync::atomic::AtomicU32::new(0);
        let chore = |fails: bool| {
            done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            if fails { Err("the disk is full") } else { Ok(()) }
        };
        assert_eq!(beside(|| chore(false), |_| Ok(7)), Ok(7));
        assert_eq!(done.load(std::sync::atomic::Ordering::SeqCst), 0, "nobody asked");
        let often = |ask: &dyn Fn()| {
            (0..9).for_each(|_| ask());
            Ok(())
        };
        assert_eq!(beside(|| chore(false), often), Ok(()));
        let times = done.swap(0, std::sync::atomic::Ordering::SeqCst);
        assert!((1..=9).contains(&times), "{times}");
        assert_eq!(beside(|| chore(true), often), Err("the disk is full"));
        assert_eq!(done.load(std::sync::atomic::Ordering::SeqCst), 1, "and it was the last");
        assert_eq!(beside(|| chore(true), |_| Err::<(), _>("something else")), Err("something else"));
    }

    #[test]
    fn results_come_in_order_and_all_of_them() {
        let mut seen = Vec::new();
        let done: Result<(), ()> = ordered(
            3,
            0..1000u64,
            || (),
            |(), n| Ok(n * 2),
            |n| {
                seen.push(n);
                Ok(())
            },
        );
        assert_eq!(done, Ok(()));
        assert_eq!(seen, (0..1000).map(|n| n * 2).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_in_a_worker_or_the_sink_ends_it() {
        let worker = ordered(2, 0..1000, || (), |(), n| if n == 7 { Err(n) } else { Ok(n) }, |_| Ok(()));
        assert_eq!(worker, Err(7));
        let sink = ordered(2, 0.., || (), |(), n: u64| Ok(n), |n| if n == 9 { Err(n) } else { Ok(()) });
        assert_eq!(sink, Err(9));
    }

    #[test]
    fn a_panic_in_the_sink_or_a_worker_ends_it() {
        let sink = std::panic::catch_unwind(|| {
            ordered(
                2,
                0..1000,
                || (),
                |(), n| Ok::<_, ()>(n),
                |n| {
                    assert!(n < 5, "planted");
                    Ok(())
                },
            )
        });
        assert!(sink.is_err());
        let worker = std::panic::catch_unwind(|| {
            ordered(
                2,
                0..1000,
                || (),
                |(), n| {
                    assert!(n != 5, "planted");
                    Ok::<_, ()>(n)
                },
                |_| Ok(()),
            )
        });
        assert!(worker.is_err());
    }

    #[test]
    fn no_more_than_the_window_is_ever_taken_ahead() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (taken, most) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut sunk = 0;
        let done: Result<(), ()> = ordered(
            2,
            (0..500u64).inspect(|_| {
                taken.fetch_add(1, Ordering::SeqCst);
            }),
            || (),
            |(), n| Ok(n),
            |_| {
                sunk += 1;
                most.fetch_max(taken.load(Ordering::SeqCst) - sunk, Ordering::SeqCst);
                Ok(())
            },
        );
        assert_eq!(done, Ok(()));
        assert!(most.load(Ordering::SeqCst) <= 4, "{most:?}");
    }
}
