//! Time and chance as parameters: the two traits every crate takes instead of asking the machine.

use crate::Moment;

/// Says what time it is. The only method: nothing may sleep through this.
pub trait Clock: Send + Sync {
    fn now(&self) -> Moment;
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
