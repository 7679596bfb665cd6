//! Which snapshots to keep, and why; everything else may go.
//!
//! The rules only ever add reasons to keep. Above them stand reasons no policy can remove: the newest
//! good snapshot, the last proven one, a pin, a label kept for ever or until a day. What is not good
//! takes no slot of a rule: a quarantined snapshot must never push out a good one.

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
    Last,
    Recent,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    /// No rule is set.
    NoPolicy,
}

/// Why a snapshot may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freed {
    /// No rule asks for it any more.
    Outlived,
    /// It failed a check: it took no slot, and a newer good one is there.
    Quarantined,
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

/// Decides for every snapshot of one source. Calendar rules are read in `zone`, on the times the
/// snapshots were taken; `now` is used for the rules that count days from today.
pub fn decide(snapshots: &[Snapshot], policy: &RetentionPolicy, now: Moment, zone: &TimeZone) -> Vec<Decision> {
    let mut reasons: BTreeMap<usize, Vec<Reason>> = BTreeMap::new();
    let mut newest_first: Vec<usize> = (0..snapshots.len()).collect();
    newest_first.sort_by_key(|i| std::cmp::Reverse((snapshots[*i].taken, snapshots[*i].sequence)));
    let good: Vec<usize> = newest_first.iter().copied().filter(|i| !snapshots[*i].is_quarantined()).collect();

    let mut keep = |i: usize, reason: Reason| reasons.entry(i).or_default().push(reason);
    for i in by_right(snapshots, &good, now) {
        keep(i.0, i.1);
    }
    if policy.is_set() {
        by_rule(snapshots, &good, policy, now, zone).into_iter().for_each(|(i, reason)| keep(i, reason));
    } else {
        (0..snapshots.len()).for_each(|i| keep(i, Reason::NoPolicy));
    }
    newest_first
        .into_iter()
        .map(|i| {
            let snapshot = &snapshots[i];
            let fate = match reasons.remove(&i) {
                Some(reasons) => Fate::Keep(reasons),
                None if snapshot.is_quarantined() => Fate::Free(Freed::Quarantined),
                None => Fate::Free(Freed::Outlived),
            };
            Decision { snapshot: snapshot.id, taken: snapshot.taken, fate }
        })
        .collect()
}

/// What stays whatever the policy says.
fn by_right(snapshots: &[Snapshot], good: &[usize], now: Moment) -> Vec<(usize, Reason)> {
    let mut kept = Vec::new();
    // Without a good one, the newest of the bad is all there is.
    let newest_of_all = (0..snapshots.len()).max_by_key(|i| snapshots[*i].sequence);
    kept.extend(good.first().copied().or(newest_of_all).map(|i| (i, Reason::Newest)));
    // The tip of the chain stays even when it is not good: the next snapshot names it.
    kept.extend(newest_of_all.filter(|i| good.first() != Some(i)).map(|i| (i, Reason::Newest)));
    kept.extend(good.iter().find(|i| snapshots[**i].is_proven()).map(|i| (*i, Reason::LastProven)));
    for (i, snapshot) in snapshots.iter().enumerate() {
        if snapshot.has(MarkKind::Pinned) {
            kept.push((i, Reason::Pinned));
        }
        match snapshot.keep {
            Some(Keep::ForEver) => kept.push((i, Reason::KeptForEver)),
            Some(Keep::Until(day)) if now < day => kept.push((i, Reason::KeptUntil(day))),
            _ => {}
        }
    }
    kept.sort_by_key(|(i, _)| *i);
    kept.dedup();
    kept
}

/// Names the hour, day, week, month or year an instant falls into.
type Period = fn(&Zoned) -> (i16, i16, i16);

fn by_rule(
    snapshots: &[Snapshot],
    good: &[usize],
    policy: &RetentionPolicy,
    now: Moment,
    zone: &TimeZone,
) -> Vec<(usize, Reason)> {
    let mut kept: Vec<(usize, Reason)> = good.iter().take(policy.last as usize).map(|i| (*i, Reason::Last)).collect();
    let recent = i64::from(policy.days) * 86_400_000;
    let young = good.iter().filter(|i| policy.days > 0 && now.millis_since(snapshots[**i].taken) <= recent);
    kept.extend(young.map(|i| (*i, Reason::Recent)));
    let calendar: [(u32, Reason, Period); 5] = [
        (policy.hourly, Reason::Hourly, |t| (t.year(), t.day_of_year(), i16::from(t.hour()))),
        (policy.daily, Reason::Daily, |t| (t.year(), t.day_of_year(), 0)),
        (policy.weekly, Reason::Weekly, |t| {
            let week = t.date().iso_week_date();
            (week.year(), i16::from(week.week()), 0)
        }),
        (policy.monthly, Reason::Monthly, |t| (t.year(), i16::from(t.month()), 0)),
        (policy.yearly, Reason::Yearly, |t| (t.year(), 0, 0)),
    ];
    for (count, reason, period) in calendar {
        let mut seen = None;
        let mut left = count;
        for i in good {
            let taken = Timestamp::from_millisecond(snapshots[*i].taken.as_millis()).unwrap_or(Timestamp::MAX);
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
