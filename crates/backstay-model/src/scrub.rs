//! How an object that is missing or damaged may be brought back, decided from what it is and what is known.
//!
//! Bytes that were verified can be put where nothing stands: that is always safe. To put them where other
//! bytes stand, those must be deleted first, and in between somebody who looks for a free name may take this
//! one. So what is last of its kind is not replaced: there the next writer looks.

/// What an object is, as far as bringing it back is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// Frames under a random name, which nobody else ever takes.
    Pack,
    /// A manifest; `newest` if no snapshot of its source has a higher number.
    Manifest { newest: bool },
    /// An object in a dense slot below `data/`; `last` if no slot after it is taken.
    Slot { last: bool },
    /// What lies below `ctl/`, where nobody deletes.
    Record,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Missing,
    /// Other bytes stand there than what was signed.
    Damaged,
}

/// What is known about an object that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub thing: Thing,
    pub state: State,
    /// Bytes that were verified are at hand.
    pub good: bool,
    /// Another manifest describes the very bytes that stand there: one of the two says what is not so.
    pub good_for_another: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cure {
    /// Put the bytes under the name, unless something stands there.
    Put,
    /// Put a spare, delete what stands there, put the bytes.
    Replace,
    Leave(Reason),
}

/// Why an object is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No verified bytes of it were found.
    NoGoodBytes,
    /// It is the newest snapshot: while its name is free a writer may take its number.
    NewestSnapshot,
    /// It is the last of its slots: while the slot is free a writer may take it.
    LastSlot,
    /// Nobody deletes below `ctl/`.
    NotDeletable,
    /// What stands there is what another manifest says of it.
    GoodForAnother,
}

/// Decides.
pub fn cure(found: Found) -> Cure {
    match found {
        Found { good: false, .. } => Cure::Leave(Reason::NoGoodBytes),
        Found { good_for_another: true, state: State::Damaged, .. } => Cure::Leave(Reason::GoodForAnother),
        Found { state: State::Missing, .. } => Cure::Put,
        Found { thing: Thing::Pack, .. } => Cure::Replace,
        Found { thing: Thing::Manifest { newest: false } | Thing::Slot { last: false }, .. } => Cure::Replace,
        Found { thing: Thing::Manifest { newest: true }, .. } => Cure::Leave(Reason::NewestSnapshot),
        Found { thing: Thing::Slot { last: true }, .. } => Cure::Leave(Reason::LastSlot),
        Found { thing: Thing::Record, .. } => Cure::Leave(Reason::NotDeletable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Thing; 6] = [
        Thing::Pack,
        Thing::Manifest { newest: false },
        Thing::Manifest { newest: true },
        Thing::Slot { last: false },
        Thing::Slot { last: true },
        Thing::Record,
    ];

    fn found(thing: Thing, state: State) -> Found {
        Found { thing, state, good: true, good_for_another: false }
    }

    #[test]
    fn nothing_is_touched_without_good_bytes() {
        for thing in ALL {
            for state in [State::Missing, State::Damaged] {
                let cured = cure(Found { good: false, ..found(thing, state) });
                assert_eq!(cured, Cure::Leave(Reason::NoGoodBytes), "{thing:?} {state:?}");
            }
        }
    }

    #[test]
    fn what_is_missing_is_put_and_what_is_damaged_replaced_where_nobody_can_come_between() {
        for thing in ALL {
            assert_eq!(cure(found(thing, State::Missing)), Cure::Put, "{thing:?}");
        }
        let damaged: Vec<Cure> = ALL.map(|thing| cure(found(thing, State::Damaged))).into();
        let leave = Cure::Leave;
        assert_eq!(
            damaged,
            [
                Cure::Replace,
                Cure::Replace,
                leave(Reason::NewestSnapshot),
                Cure::Replace,
                leave(Reason::LastSlot),
                leave(Reason::NotDeletable)
            ]
        );
    }

    #[test]
    fn bytes_that_another_manifest_names_stay() {
        let described = Found { good_for_another: true, ..found(Thing::Pack, State::Damaged) };
        assert_eq!(cure(described), Cure::Leave(Reason::GoodForAnother));
    }
}
