//! Which objects a snapshot should leave behind: their live units are stored again, so that a prune
//! can one day delete them whole.
//!
//! A prune frees objects, not frames, so liveness is counted per object. Scattered writes thin out
//! every object a little; without this, a snapshot would come to refer to many times its own size.

/// How much of one object a snapshot still uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectUse {
    pub stored: u64,
    pub total_units: u64,
    pub live_units: u64,
}

impl ObjectUse {
    /// The object's bytes that belong to live units, as far as units are alike.
    pub fn live_bytes(&self) -> u64 {
        let share = u128::from(self.stored) * u128::from(self.live_units);
        (share / u128::from(self.total_units.max(1))) as u64
    }
}

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpacePolicy {
    /// Bytes referred to may be this many hundredths of the live bytes.
    pub ratio_percent: u64,
    /// Bytes one snapshot may spend on storing again.
    pub budget: u64,
    /// More small objects than this are worth merging, whatever their liveness.
    pub small_max: usize,
    /// Objects of fewer bytes are small. Full packs are not: merging them would only make full packs.
    pub small: u64,
}

/// The objects to leave, as indices into `objects`: the emptiest first, within the budget; then, if that
/// is not enough, the emptied most of those that no budget would ever cover, such as a full pack of a
/// small database; then, when there are too many objects, the smallest.
pub fn evacuate(objects: &[ObjectUse], policy: SpacePolicy) -> Vec<usize> {
    let mut referred: u64 = objects.iter().map(|o| o.stored).sum();
    let live: u64 = objects.iter().map(ObjectUse::live_bytes).sum();
    let allowed = (u128::from(live) * u128::from(policy.ratio_percent) / 100) as u64;
    let mut left = policy.budget;
    let mut chosen = Vec::new();

    let mut by_emptiness: Vec<usize> = (0..objects.len()).filter(|i| dead(objects, *i) > 0).collect();
    by_emptiness.sort_by(|a, b| emptiness(objects, *b).total_cmp(&emptiness(objects, *a)));
    for i in by_emptiness {
        let cost = objects[i].live_bytes();
        if referred <= allowed {
            break;
        }
        if cost <= left {
            left -= cost;
            referred -= dead(objects, i);
            chosen.push(i);
        }
    }

    let never_fits = |i: &usize| objects[*i].live_bytes() > policy.budget && dead(objects, *i) > 0;
    let rest = (0..objects.len()).filter(never_fits);
    if referred > allowed
        && let Some(worst) = rest.max_by_key(|i| dead(objects, *i))
    {
        left = left.saturating_sub(objects[worst].live_bytes());
        chosen.push(worst);
    }

    let is_small = |i: &usize| objects[*i].stored < policy.small && !chosen.contains(i);
    let mut by_size: Vec<usize> = (0..objects.len()).filter(is_small).collect();
    by_size.sort_by_key(|i| objects[*i].live_bytes());
    let surplus = by_size.len().saturating_sub(policy.small_max);
    // Merging a surplus of one every time would be busywork: once over the limit, merge a good part.
    let merge = if surplus == 0 { 0 } else { surplus + policy.small_max / 4 };
    for i in by_size.into_iter().take(merge) {
        let cost = objects[i].live_bytes();
        if cost > left {
            break;
        }
        left -= cost;
        chosen.push(i);
    }
    chosen.sort_unstable();
    chosen
}

/// How far a repack goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepackPolicy {
    /// Bytes referred to may be this many hundredths of the live bytes.
    pub ratio_percent: u64,
    /// Live bytes that one run may store again.
    pub budget: u64,
}

/// What a repack leaves, as indices into the objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaving {
    pub objects: Vec<usize>,
    /// Objects that should be left too, and for which the budget has no room: the next run's.
    pub put_off: usize,
}

/// The objects of which less than half is live, and then the emptiest until what is referred to is within bounds of
/// what lives; the emptiest first.
pub fn repack(objects: &[ObjectUse], policy: RepackPolicy) -> Leaving {
    let mut referred: u64 = objects.iter().map(|o| o.stored).sum();
    let live: u64 = objects.iter().map(ObjectUse::live_bytes).sum();
    let allowed = (u128::from(live) * u128::from(policy.ratio_percent) / 100) as u64;
    let mut left = policy.budget;
    let mut leaving = Leaving::default();
    let mut by_emptiness: Vec<usize> = (0..objects.len()).filter(|i| dead(objects, *i) > 0).collect();
    by_emptiness.sort_by(|a, b| emptiness(objects, *b).total_cmp(&emptiness(objects, *a)));
    for i in by_emptiness {
        let object = &objects[i];
        if object.live_units * 2 >= object.total_units && referred <= allowed {
            break;
        }
        if object.live_bytes() > left {
            leaving.put_off += 1;
            continue;
        }
        left -= object.live_bytes();
        referred -= dead(objects, i);
        leaving.objects.push(i);
    }
    leaving
}

fn dead(objects: &[ObjectUse], i: usize) -> u64 {
    objects[i].stored - objects[i].live_bytes().min(objects[i].stored)
}

fn emptiness(objects: &[ObjectUse], i: usize) -> f64 {
    dead(objects, i) as f64 / objects[i].stored.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(stored: u64, live_percent: u64) -> ObjectUse {
        ObjectUse { stored, total_units: 100, live_units: live_percent }
    }

    const POLICY: SpacePolicy = SpacePolicy { ratio_percent: 125, budget: 1000, small_max: 100, small: 500 };

    #[test]
    fn a_dense_repository_is_left_alone() {
        assert!(evacuate(&[object(1000, 100), object(1000, 90)], POLICY).is_empty());
        assert!(evacuate(&[], POLICY).is_empty());
    }

    #[test]
    fn the_emptiest_go_first_and_only_as_many_as_needed() {
        let objects = [object(1000, 95), object(1000, 10), object(1000, 60), object(1000, 95)];
        assert_eq!(evacuate(&objects, POLICY), [1], "leaving it alone brings 4000/2600 down to 3100/2600");
    }

    #[test]
    fn an_object_that_no_budget_covers_goes_all_the_same_once_it_must() {
        let objects = [object(10_000, 78), object(100, 90), object(20_000, 79)];
        assert_eq!(evacuate(&objects, POLICY), [1, 2], "one of the two, the one with more dead bytes");
        assert!(evacuate(&[object(10_000, 81)], POLICY).is_empty());
    }

    #[test]
    fn the_budget_is_never_passed() {
        let objects = [object(1000, 50); 8];
        let chosen = evacuate(&objects, SpacePolicy { budget: 1200, ..POLICY });
        assert_eq!(chosen.len(), 2, "two times 500 fit into 1200");
    }

    #[test]
    fn a_repack_leaves_what_is_under_half_and_then_the_emptiest_until_it_is_within_bounds() {
        let policy = RepackPolicy { ratio_percent: 125, budget: u64::MAX };
        let leaving = |objects: &[ObjectUse], policy| repack(objects, policy).objects;
        let one_empty = [object(1000, 100), object(100, 49), object(1000, 100)];
        assert_eq!(leaving(&one_empty, policy), [1], "under half goes, though the whole is within bounds");
        assert_eq!(leaving(&[object(1000, 100), object(100, 50), object(1000, 100)], policy), [0; 0]);
        let thin = [object(1000, 70), object(1000, 60), object(1000, 75), object(1000, 95)];
        assert_eq!(leaving(&thin, policy), [1], "4000 for 3000 live ones become 3600, and 3750 are allowed");
        let small = repack(&thin, RepackPolicy { budget: 100, ..policy });
        assert_eq!((small.objects, small.put_off), (Vec::new(), 4), "what there is no room for is told");
        assert_eq!(repack(&[], policy), Leaving::default());
    }

    #[test]
    fn too_many_small_objects_are_merged() {
        let objects = vec![object(10, 100); 12];
        let chosen = evacuate(&objects, SpacePolicy { small_max: 8, ..POLICY });
        assert_eq!(chosen.len(), 6);
    }

    #[test]
    fn full_packs_are_never_merged_into_full_packs() {
        let objects = vec![object(1000, 100); 200];
        assert!(evacuate(&objects, SpacePolicy { small_max: 8, budget: u64::MAX, ..POLICY }).is_empty());
    }

    #[test]
    fn a_year_of_scattered_writes_stays_within_bounds() {
        // 200 objects of 100 units; each day 1 % of the units move to a new object.
        let mut objects = vec![object(1000, 100); 200];
        let mut seed = 7u64;
        for day in 0..365 {
            let live: u64 = objects.iter().map(|o| o.live_bytes()).sum();
            let policy = SpacePolicy { ratio_percent: 125, budget: live / 16, small_max: 1000, small: 500 };
            let leaving = evacuate(&objects, policy);
            let mut moved: u64 = leaving.iter().map(|i| objects[*i].live_units).sum();
            leaving.iter().for_each(|i| objects[*i].live_units = 0);
            let total: u64 = objects.iter().map(|o| o.live_units).sum();
            for _ in 0..total / 100 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let mut pick = (seed >> 33) % objects.iter().map(|o| o.live_units).sum::<u64>();
                for o in &mut objects {
                    if pick < o.live_units {
                        o.live_units -= 1;
                        moved += 1;
                        break;
                    }
                    pick -= o.live_units;
                }
            }
            objects.retain(|o| o.live_units > 0);
            objects.push(ObjectUse { stored: moved * 10, total_units: moved, live_units: moved });
            let referred: u64 = objects.iter().map(|o| o.stored).sum();
            let live: u64 = objects.iter().map(|o| o.live_bytes()).sum();
            assert!(referred * 100 <= live * 130, "day {day}: {referred} bytes for {live} live ones");
        }
    }
}
