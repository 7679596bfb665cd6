//! Time and chance as parameters: the two traits every crate takes instead of asking the machine.

use crate::Moment;
use std::time::Duration;

/// Says what time it is. Nothing may sleep through this.
pub trait Clock: Send + Sync {
    /// The wall clock, which may jump either way.
    fn now(&self) -> Moment;

    /// How long it has been since some fixed instant: never less than before, and it goes on while the
    /// machine sleeps. For spans that must not be outstayed. A clock that is steered by hand is its own
    /// measure; the machine's has another.
    fn uptime(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.now().as_millis()).unwrap_or(0))
    }
}

/// A source of bytes nobody can guess.
pub trait Random: Send + Sync {
    fn fill(&self, bytes: &mut [u8]);
}

/// Sixteen fresh bytes, for ids.
pub fn fresh<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}
