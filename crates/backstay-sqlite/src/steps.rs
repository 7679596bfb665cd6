//! Named places between two steps of following, where a test lets others act: an interleaving is forced, never waited
//! for.
//!
//! Only with the feature `sim`, which nothing that is shipped enables: without it nobody can be there to act, and a
//! place is no code at all. `cargo xtask tidy` sees to that.

/// A place between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// How much is copied back was looked at; the next transaction begins.
    Beginning,
    /// The next transaction has begun; the one before still holds.
    Begun,
    /// The log's header was read, and none of its frames.
    HeaderRead,
    /// The frames were read; whether it is still the same log was not asked again.
    FramesRead,
    /// What lies between the two transactions was read.
    Read,
    /// The hold was found unbroken.
    Proven,
    /// What was read is safe where it must be; the transaction before is let go.
    LettingGo,
    /// The transaction before has ended.
    Ended,
    /// The writer's lock is ours.
    Locked,
    /// Everything was read under it, and is safe; the log is copied back.
    CopyingBack,
    /// The log was copied back under it.
    CopiedBack,
    /// The writer's lock is given back.
    Unlocking,
    /// Another slot is locked; the transaction still holds.
    SteppingAside,
    /// Only the lock of the other slot holds.
    SteppedAside,
    /// What is known was found in the main file, and unbroken; every handle is given up.
    Resting,
    /// Nothing is held and nothing is open.
    Rested,
    /// The handles are opened again; nothing is held.
    Woken,
    /// It is held again; whether anybody was at it was not asked.
    HeldAgain,
    /// A snapshot's state is fixed by its capture, and the log is held as well.
    Captured,
    /// The snapshot is stored; what was committed since is not in the queue yet.
    Stored,
    /// What was read is being sealed and spooled beside this; the log is held as before.
    Handed,
    /// What was read is sealed, in memory alone.
    Sealed,
    /// It lies sealed on the disk.
    Spooled,
    /// What is to be put is written down.
    Putting,
    /// The store has it; here nobody knows of it yet.
    Put,
    /// It counts as durable.
    Confirmed,
    /// A next run knows what of the run before is durable; the log was not read.
    Recalled,
    /// It has read on from there; the stream before has not ended.
    Resumed,
    /// A stream was ended for a snapshot that has not begun.
    Fenced,
}

impl Step {
    /// In the order in which they are written above.
    pub const ALL: [Step; 29] = [
        Step::Beginning,
        Step::Begun,
        Step::HeaderRead,
        Step::FramesRead,
        Step::Read,
        Step::Proven,
        Step::LettingGo,
        Step::Ended,
        Step::Locked,
        Step::CopyingBack,
        Step::CopiedBack,
        Step::Unlocking,
        Step::SteppingAside,
        Step::SteppedAside,
        Step::Resting,
        Step::Rested,
        Step::Woken,
        Step::HeldAgain,
        Step::Captured,
        Step::Stored,
        Step::Handed,
        Step::Sealed,
        Step::Spooled,
        Step::Putting,
        Step::Put,
        Step::Confirmed,
        Step::Recalled,
        Step::Resumed,
        Step::Fenced,
    ];
}

/// Who acts at every step.
#[cfg(feature = "sim")]
pub type Steps = std::sync::Arc<dyn Fn(Step) + Send + Sync>;

/// Nobody.
#[cfg(not(feature = "sim"))]
#[derive(Debug, Clone)]
pub struct Steps;

/// Nobody acts.
#[must_use]
pub fn nobody() -> Steps {
    #[cfg(feature = "sim")]
    return std::sync::Arc::new(|_| {});
    #[cfg(not(feature = "sim"))]
    Steps
}

/// Lets whoever there is act.
#[cfg(feature = "sim")]
pub fn reach(steps: &Steps, step: Step) {
    steps(step);
}

/// Nothing at all.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub fn reach(_: &Steps, _: Step) {}
