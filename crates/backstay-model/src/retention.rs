//! Which snapshots to keep, and why; everything else may go.
//!
//! The rules only ever add reasons to keep. Above them stand reasons no policy can remove: the newest
//! good snapshot, the last proven one, a pin, a label kept for ever or until a day. What is not good
//! takes no slot of a rule: a quarantined snapshot must never push out a good one, and an unproven one
//! never a proven one. So every rule is read twice, over all good snapshots and over the proven ones
//! alone; where all are proven, or none is, that is the same.
//!
//! A time a host's clock gave is believed up to now and no further, and where order matters the number
//! counts beside the time: neither a clock that jumped nor an old copy that was imported frees anything.

use crate::catalog::{Keep, MarkKind, Snapshot};
use crate::{Moment, ObjectId};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::collections::BTreeMap;

/// How many to keep by each rule; zero switches a rule off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct RetentionPolicy {
    /// The newest so many, whatever their age.
    pub last: u32,
    /// All of the last so many days.
    pub days: u32,
    /// The newest of each of the last so many hours, days, ISO weeks, months and years that have one.
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
}

impl RetentionPolicy {
    /// Whether any rule is on. Without one nothing is ever freed.
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }
}

/// Why a snapshot stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    Newest,
    LastProven,
    Pinned,
    KeptForEver,
    KeptUntil(Moment),
    /// A listing lacks objects it needs. It takes no slot, and a listing frees nothing.
    Incomplete,
    Last,
    Recent,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    /// The log of a span in which every commit can be restored is read from it.
    LogBegins,
    /// No rule is set.
    NoPolicy,
}

impl Reason {
    /// Whether a person who gives this very snapshot up is refused.
    pub const fn words(self) -> &'static str {
        match self {
            Reason::Newest => "the newest",
            Reason::LastProven => "the last proven",
            Reason::Pinned => "held",
            Reason::KeptForEver => "kept for ever",
            Reason::KeptUntil(_) => "kept until a day",
            Reason::Incomplete => "not wholly listed",
            Reason::Last => "among the last",
            Reason::Recent => "recent",
            Reason::Hourly => "of its hour",
            Reason::Daily => "of its day",
            Reason::Weekly => "of its week",
            Reason::Monthly => "of its month",
            Reason::Yearly => "of its year",
            Reason::LogBegins => "where the log begins",
            Reason::NoPolicy => "kept: no rule for snapshots is set",
        }
    }

    pub fn is_a_right(self) -> bool {
        matches!(self, Reason::Newest | Reason::LastProven | Reason::Pinned)
    }
}

/// Why a snapshot may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freed {
    /// No rule asks for it any more.
    Outlived,
    /// It failed a check: it took no slot, and a newer good one is there.
    Quarantined,
    /// A person gave it up.
    GivenUp,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    Keep(Vec<Reason>),
    Free(Freed),
}

/// One snapshot and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Decision {
    pub snapshot: ObjectId,
    pub taken: Moment,
    pub fate: Fate,
}

/// A snapshot to decide about.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub snapshot: &'a Snapshot,
    /// When the store got it, by the store's clock.
    pub stored: Moment,
    /// Every object it needs is listed.
    pub complete: bool,
}

impl<'a> Candidate<'a> {
    /// One of which nothing more is known than what it says itself.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, stored: snapshot.taken, complete: true }
    }

    fn is_good(&self) -> bool {
        self.complete && !self.snapshot.is_quarantined()
    }
}

/// Decides for every snapshot of one source, newest first. Calendar rules are read in `zone`, on the
/// times the snapshots were taken; `now` is used for the rules that count days from today.
pub fn decide(candidates: &[Candidate<'_>], policy: &RetentionPolicy, now: Moment, zone: &TimeZone) -> Vec<Decision> {
    let of = Orders::of(candidates, now);
    let mut reasons: BTreeMap<usize, Vec<Reason>> = BTreeMap::new();
    let mut keep = |i: usize, reason: Reason| {
        let known = reasons.entry(i).or_default();
        if !known.contains(&reason) {
            known.push(reason);
        }
    };
    by_right(candidates, &of, now).into_iter().for_each(|(i, reason)| keep(i, reason));
    if policy.is_set() {
        by_rule(candidates, &of, policy, now, zone).into_iter().for_each(|(i, reason)| keep(i, reason));
    } else {
        (0..candidates.len()).for_each(|i| keep(i, Reason::NoPolicy));
    }
    let fate = |i: usize| match reasons.remove(&i) {
        Some(reasons) => Fate::Keep(reasons),
        None if candidates[i].snapshot.is_quarantined() => Fate::Free(Freed::Quarantined),
        None => Fate::Free(Freed::Outlived),
    };
    let decided = of.by_time.iter().copied().zip(of.by_time.iter().copied().map(fate));
    let named = |(i, fate): (usize, Fate)| (candidates[i].snapshot, fate);
    decided.map(named).map(|(s, fate)| Decision { snapshot: s.id, taken: s.taken, fate }).collect()
}

/// The candidates, newest first, in the two orders there are.
struct Orders {
    /// By the time a host gave, but none is later than now.
    times: Vec<Moment>,
    by_time: Vec<usize>,
    by_number: Vec<usize>,
}

impl Orders {
    fn of(candidates: &[Candidate<'_>], now: Moment) -> Self {
        let times: Vec<Moment> = candidates.iter().map(|c| c.snapshot.taken.min(now)).collect();
        let number = |i: &usize| (candidates[*i].snapshot.sequence, candidates[*i].snapshot.id);
        let (mut by_time, mut by_number): (Vec<usize>, Vec<usize>) =
            ((0..times.len()).collect(), (0..times.len()).collect());
        by_time.sort_by_key(|i| std::cmp::Reverse((times[*i], number(i))));
        by_number.sort_by_key(|i| std::cmp::Reverse(number(i)));
        Self { times, by_time, by_number }
    }

    /// Both orders of those that pass.
    fn both(&self, pass: impl Fn(usize) -> bool) -> [Vec<usize>; 2] {
        let chosen = |order: &[usize]| order.iter().copied().filter(|i| pass(*i)).collect();
        [chosen(&self.by_time), chosen(&self.by_number)]
    }
}

/// What stays whatever the policy says.
fn by_right(candidates: &[Candidate<'_>], of: &Orders, now: Moment) -> Vec<(usize, Reason)> {
    let mut kept = Vec::new();
    let number = |i: &usize| candidates[*i].snapshot.sequence;
    // Two of one number are rivals: which of them is meant, nobody here can say.
    let with_rivals = |newest: Option<&usize>| {
        let those = newest.map(|newest| of.by_number.iter().filter(move |i| number(i) == number(newest)));
        those.into_iter().flatten().map(|i| (*i, Reason::Newest)).collect::<Vec<_>>()
    };
    // The tip of the chain stays even when it is not good: the next snapshot names it.
    kept.extend(with_rivals(of.by_number.first()));
    // An imported copy is never the latest, so it is no reason to let the latest go.
    let own = of.both(|i| candidates[i].is_good() && !candidates[i].snapshot.imported);
    for order in of.both(|i| candidates[i].is_good()).iter().chain(&own) {
        kept.extend(with_rivals(order.first()));
        let proven = |i: &usize| candidates[*i].is_good() && candidates[*i].snapshot.is_proven();
        let last = with_rivals(order.iter().find(|i| proven(i)));
        kept.extend(last.into_iter().filter(|(i, _)| proven(i)).map(|(i, _)| (i, Reason::LastProven)));
    }
    for (i, candidate) in candidates.iter().enumerate() {
        if candidate.snapshot.has(MarkKind::Pinned) {
            kept.push((i, Reason::Pinned));
        }
        match candidate.snapshot.keep {
            Some(Keep::ForEver) => kept.push((i, Reason::KeptForEver)),
            Some(Keep::Until(day)) if now < day => kept.push((i, Reason::KeptUntil(day))),
            _ => {}
        }
        if !candidate.complete {
            kept.push((i, Reason::Incomplete));
            // Of those one cannot look at, the newest proven one may be the last there is.
            if candidate.snapshot.is_proven() {
                kept.push((i, Reason::LastProven));
            }
        }
    }
    kept
}

/// Names the hour, day, week, month or year an instant falls into.
type Period = fn(&Zoned) -> (i16, i16, i16);

fn by_rule(
    candidates: &[Candidate<'_>],
    of: &Orders,
    policy: &RetentionPolicy,
    now: Moment,
    zone: &TimeZone,
) -> Vec<(usize, Reason)> {
    let mut kept = Vec::new();
    let recent = i64::from(policy.days) * 86_400_000;
    let is_young = |i: usize| {
        let oldest = of.times[i].max(candidates[i].stored);
        policy.days > 0 && now.millis_since(oldest) <= recent
    };
    let is_good = |i: usize| candidates[i].is_good();
    let is_proven = |i: usize| candidates[i].is_good() && candidates[i].snapshot.is_proven();
    kept.extend((0..candidates.len()).filter(|i| is_good(*i) && is_young(*i)).map(|i| (i, Reason::Recent)));
    for [by_time, by_number] in [of.both(is_good), of.both(is_proven)] {
        for order in [&by_time, &by_number] {
            kept.extend(order.iter().take(policy.last as usize).map(|i| (*i, Reason::Last)));
        }
        kept.extend(by_calendar(&by_time, of, policy, zone));
    }
    kept
}

/// The newest of each of the last so many periods that have one.
fn by_calendar(newest_first: &[usize], of: &Orders, policy: &RetentionPolicy, zone: &TimeZone) -> Vec<(usize, Reason)> {
    let calendar: [(u32, Reason, Period); 5] = [
        // The offset tells apart the two hours that are one on the clock when summer time ends.
        (policy.hourly, Reason::Hourly, |t| {
            (t.year(), t.day_of_year(), i16::from(t.hour()) * 60 + (t.offset().seconds() / 3600) as i16)
        }),
        (policy.daily, Reason::Daily, |t| (t.year(), t.day_of_year(), 0)),
        (policy.weekly, Reason::Weekly, |t| {
            let week = t.date().iso_week_date();
            (week.year(), i16::from(week.week()), 0)
        }),
        (policy.monthly, Reason::Monthly, |t| (t.year(), i16::from(t.month()), 0)),
        (policy.yearly, Reason::Yearly, |t| (t.year(), 0, 0)),
    ];
    let mut kept = Vec::new();
    for (count, reason, period) in calendar {
        let (mut seen, mut left) = (None, count);
        for i in newest_first {
            let taken = Timestamp::from_millisecond(of.times[*i].as_millis()).unwrap_or(Timestamp::MAX);
            let here = Some(period(&taken.to_zoned(zone.clone())));
            if left > 0 && here != seen {
                kept.push((*i, reason));
                left -= 1;
                seen = here;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests;
