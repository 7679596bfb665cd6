//! Roll-ups: many small objects of a log once more, in one. With them alone every commit comes back; one that says
//! anything else than what it stands for is an alarm, and changes nothing of what can be restored.

mod house;
mod world;

use backstay_format::facts::{RollUp, Span, SpanEnd};
use backstay_model::catalog::Target;
use backstay_model::{Digest, Generation, Kind, Kinded, Sequence, Tx, Verdict};
use backstay_ops::check::Depth;
use backstay_ops::follow::Began;
use backstay_ops::log::{self, Lies, PageMap};
use backstay_ops::rows::points;
use backstay_ops::standby::Came;
use backstay_store::keys::LogName;
use backstay_store::repo::{LogDraft, LogFront, LogSigning, name_of};
use house::House;
use world::source;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_comes_back_from_roll_ups_alone() {
    let mut house = House::new().await;
    // A little more than an hour.
    house.kept = house.worked(190).await;
    let rolled = house.rolled().await;
    let of =
        |min: u64, max: u64| rolled.iter().filter(|r| (min..max).contains(&(r.last.get() - r.first.get() + 1))).count();
    assert!(of(2, 4) > 80 && of(10, 20) >= 11 && of(150, 200) == 1, "{rolled:?}");
    house.all_come_back().await;
    let before = points(&house.world.vault, &source(), None).await.expect("points").list;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    assert!(house.keep_the_largest().await > 250);
    assert!(house.slots().await.len() < 14, "few slots are left");
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    assert_eq!(points(&house.world.vault, &source(), None).await.expect("points").list, before, "with their own times");
    // Page by page.
    let vault = &house.world.vault;
    let (tx, bytes) = house.kept.iter().rev().nth(2).expect("kept").clone();
    let mut catalog = vault.catalog(&source()).await.expect("a catalog");
    let resolved = log::resolve(vault, &mut catalog, &Target::Tx(tx)).await.expect("a state");
    let map = PageMap::of(vault, &resolved.log.expect("in the log")).await.expect("a map");
    for (at, page) in bytes.chunks(1024).enumerate() {
        if let Lies::InLog(image) = map.find(at as u32 + 1) {
            assert!(map.read(vault, &image).await.expect("a page") == page, "page {}", at + 1);
        }
    }
    // The next run goes on, and one that remembers nothing begins with numbers that were never used.
    let last = house.kept.last().expect("kept").0;
    let mut follower = house.follow().await;
    assert_eq!(*follower.began(), Began::Continued { tx: last });
    house.work(&mut follower, 4).await;
    drop(follower);
    std::fs::remove_dir_all(house.world.vault.state.dir()).expect("the memory is lost");
    let more = house.worked(5).await;
    assert!(more[0].0 > Tx::new(last.get() + 5), "numbers are not used twice");
    house.kept.extend(more);
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

/// Promise 10 also of roll-ups: the script shares no code with us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_recovers_commits_that_only_roll_ups_have() {
    let mut house = House::new().await;
    house.kept = house.worked(40).await;
    assert!(house.keep_the_largest().await > 40);
    for (tx, bytes) in &house.kept {
        assert!(house.scripted(*tx).as_ref() == Ok(bytes), "state {tx}");
    }
    assert_eq!(house.kept.len(), 3);
}

/// A slot that no roll-up has is a hole as ever, and so is one whose roll-up is damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_up_that_is_damaged_is_named_and_the_slots_are_read() {
    let mut house = House::new().await;
    house.kept = house.worked(8).await;
    let rolled = house.rolled().await;
    let (first, second) = (rolled[0], rolled[1]);
    let path = house.world.dir().join("vault").join(first.key().as_str());
    let mut bytes = std::fs::read(&path).expect("read");
    let at = bytes.len() - 60;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    assert_eq!(house.verdict(Depth::Intact).await, (Verdict::Fail, vec![first.key().to_string()]));
    house.all_come_back().await;
    bytes[at] ^= 1;
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Intact).await, (Verdict::Fail, vec![first.key().to_string()]));
    house.remove(&first);
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    house.all_come_back().await;
    // Of the second the slots are gone.
    for slot in second.first.get()..=second.last.get() {
        house.remove(&LogName::slot(second.stream, Sequence::new(slot)));
    }
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    house.remove(&second);
    let hole = LogName::slot(second.stream, second.first).key().to_string();
    assert_eq!(house.verdict(Depth::Intact).await, (Verdict::Fail, vec![hole]));
}

/// Each holds what the other does: either is enough, and what neither has is an error with a name, never other rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_roll_up_and_what_it_was_made_of_whatever_is_whole_is_read() {
    let mut house = House::new().await;
    house.kept = house.worked(34).await;
    let (small, large): (Vec<LogName>, Vec<LogName>) =
        house.rolled().await.into_iter().partition(|name| name.last.get() - name.first.get() < 4);
    let slots = house.slots().await.into_iter();
    let slots = slots.map(|slot| LogName::slot(small[0].stream, Sequence::new(slot)));
    let is_in = |slot: &LogName, all: &[LogName]| all.iter().any(|name| (name.first..=name.last).contains(&slot.first));
    let slots: Vec<LogName> = slots.filter(|slot| is_in(slot, &small) && is_in(slot, &large)).collect();
    assert!(slots.len() > 20 && large.len() == 2, "{slots:?} {large:?}");
    let flip = |names: &[LogName], frame| names.iter().for_each(|name| house.flip(name, frame));
    for frame in [0, 1] {
        flip(&large, frame);
        house.all_are_read("roll-ups of five minutes are damaged").await;
        flip(&slots, frame);
        house.all_are_read("and so are slots").await;
        flip(&large, frame);
        house.all_are_read("slots alone are damaged").await;
        flip(&large, frame);
        flip(&small, frame);
        let (tx, _) = house.kept[0];
        let to = house.world.dir().join("none.db");
        let error = house.world.restore(Target::Tx(tx), &to).await.expect_err("nothing has it");
        assert!(error.kind() == Kind::Corrupt && !to.exists(), "{error}");
        let words = [house.asked(tx).await.expect_err("nothing has it"), house.scripted(tx).expect_err("nor here")];
        assert!(words.iter().all(|said| said.contains("data/log/")), "{words:?}");
        for names in [&large, &small, &slots] {
            flip(names, frame);
        }
    }
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stand_by_that_is_behind_catches_up_through_roll_ups_also_past_slots_that_are_gone() {
    let house = House::new().await;
    let mut follower = house.follow().await;
    house.standby().await.stop().expect("stopped");
    house.work(&mut follower, 40).await;
    let mut standby = house.standby().await;
    let ticked = standby.tick().await.expect("tick");
    assert_eq!((ticked.states, ticked.jumped), (40, None));
    assert!(ticked.objects < 20, "{} objects", ticked.objects);
    assert!(house.is_the_copy());
    // Slots go below it while it runs, and it stands amid what was rolled up meanwhile.
    house.work(&mut follower, 40).await;
    drop(follower);
    assert!(house.prune(0).await.rolled.objects > 60);
    house.clock.pass(61);
    let ticked = standby.tick().await.expect("tick");
    assert_eq!((ticked.states, ticked.jumped), (40, None));
    assert!(house.is_the_copy());
    standby.stop().expect("stopped");
    // And while it does not.
    let mut follower = house.follow().await;
    house.work(&mut follower, 40).await;
    drop(follower);
    assert!(house.prune(0).await.rolled.objects > 20);
    let mut standby = house.standby().await;
    assert_eq!(*standby.came(), Came::Continued);
    let ticked = standby.tick().await.expect("tick");
    assert_eq!((ticked.states, ticked.jumped, standby.position().fault), (40, None, None));
    assert!(house.is_the_copy());
    assert_eq!(standby.position().tx, Some(Tx::new(120)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stand_by_goes_on_without_a_roll_up_that_lies_or_is_damaged() {
    for lie in LIES.into_iter().map(Some).chain([None]) {
        let house = House::new().await;
        let mut follower = house.follow().await;
        house.standby().await.stop().expect("stopped");
        house.work(&mut follower, 10).await;
        for name in house.rolled().await {
            house.remove(&name);
        }
        let name = house.lie(5, lie.unwrap_or(|_, _| {})).await;
        if lie.is_none() {
            house.flip(&name, 1);
        }
        let mut standby = house.standby().await;
        let ticked = standby.tick().await.expect("tick");
        assert_eq!((ticked.states, ticked.jumped, standby.position().fault), (10, None, None));
        assert!(house.is_the_copy());
        if lie.is_none() {
            // What is neither here nor there is a fault with a name.
            standby.stop().expect("stopped");
            house.work(&mut follower, 3).await;
            let later = house.rolled().await.into_iter().filter(|later| *later != name);
            later.for_each(|later| house.remove(&later));
            let gone = LogName::slot(name.stream, Sequence::new(11));
            house.flip(&gone, 1);
            let mut standby = house.standby().await;
            assert_eq!(standby.tick().await.expect("tick").states, 0);
            let fault = standby.position().fault.expect("a fault");
            assert!(fault.contains(gone.key().as_str()), "{fault}");
        }
    }
}

/// What a roll-up could say that is not so.
type Lie = fn(&mut RollUp, &mut Digest);

const LIES: [Lie; 5] = [
    // Nothing was committed.
    |facts, _| {
        facts.spans.clear();
        facts.ends.clear();
    },
    // The chain goes on elsewhere.
    |facts, _| facts.digest = Digest::from_bytes([1; 32]),
    |_, previous| *previous = Digest::from_bytes([1; 32]),
    |facts, _| facts.spans[0].last = Tx::new(facts.spans[0].last.get() + 1),
    // There is nothing behind it.
    |facts, _| facts.last = Sequence::new(1 << 40),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_up_that_lies_is_an_alarm_and_the_slots_are_read() {
    for (at, lie) in LIES.into_iter().enumerate() {
        let mut house = House::new().await;
        house.kept = house.worked(5).await;
        for name in house.rolled().await {
            house.remove(&name);
        }
        let name = house.lie(1, lie).await;
        house.all_come_back().await;
        let (verdict, problems) = house.verdict(Depth::Authentic).await;
        assert_eq!(verdict, Verdict::Fail, "lie {at}");
        assert!(problems.contains(&name.key().to_string()), "lie {at}: {problems:?}");
    }
}

impl House {
    /// A roll-up of four slots that is signed and says something else; there is no commit in it.
    async fn lie(&self, from: u64, lie: Lie) -> LogName {
        let vault = &self.world.vault;
        let stream = self.stream().await;
        let mut fronts: Vec<LogFront> = Vec::new();
        for slot in from..from + 4 {
            fronts.push(vault.repo.log_front(&stream, Sequence::new(slot)).await.expect("a front").expect("there"));
        }
        let (first, last) = (&fronts[0], &fronts[3]);
        let span = Span { last: last.facts.spans[0].last, to: last.facts.spans[0].to, ..first.facts.spans[0].clone() };
        let mut facts = RollUp {
            stream,
            first: Sequence::new(from),
            last: Sequence::new(from + 3),
            generation: Generation::FIRST,
            digest: last.digest,
            spans: vec![span],
            ends: vec![SpanEnd { sequence: Sequence::new(from + 3), digest: last.digest }],
        };
        let mut previous = first.chain.previous;
        lie(&mut facts, &mut previous);
        let random = vault.env.random.as_ref();
        let sealer = vault.repo.sealer(random);
        let with = LogSigning { signer: vault.signer.as_ref().expect("a signer"), sealer: &sealer, random };
        let (bytes, _) = LogDraft::roll_up(&facts, previous, vault.repo.fresh_id(random), with).finish(&[]);
        let name = name_of(&facts);
        vault.repo.put_roll_up(&name, bytes).await.expect("put");
        name
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_roll_up_says_once_more_is_let_go_after_it_was_compared() {
    let mut house = House::new().await;
    house.kept = house.worked(40).await;
    let (slots, rolled) = (house.slots().await.len(), house.rolled().await.len());
    assert_eq!(house.prune(3_600_000).await.rolled.objects, 0, "younger than the grace");
    // Whoever cannot read cannot compare.
    let unsealer = house.world.vault.unsealer.take();
    let blind = house.prune(0).await;
    assert!(blind.unread > 0 && blind.rolled.objects == 0, "{blind:?}");
    house.world.vault.unsealer = unsealer;
    assert_eq!((house.slots().await.len(), house.rolled().await.len()), (slots, rolled));
    let report = house.prune(0).await;
    let left = house.slots().await.len() + house.rolled().await.len();
    assert_eq!(report.rolled.objects as usize, slots + rolled - left, "{report:?}");
    assert!(left < 20 && (report.contradicted, report.unread) == (0, 0), "{left} of {slots} and {rolled}: {report:?}");
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
    assert_eq!(house.prune(0).await.rolled.objects, 0, "once");
    // Following goes on, and what it rolls up is let go in turn.
    let more = house.worked(20).await;
    house.kept.extend(more);
    assert!(house.prune(0).await.rolled.objects > 20);
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Pass, vec![]));
}

/// Nothing that a writer can create causes a deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_up_with_other_commits_lets_nothing_go() {
    let mut house = House::new().await;
    house.kept = house.worked(5).await;
    for name in house.rolled().await {
        house.remove(&name);
    }
    let slots = house.slots().await;
    // All it says of itself is true; its commits are nowhere in it.
    let name = house.lie(1, |_, _| {}).await;
    let report = house.prune(0).await;
    assert_eq!((report.rolled.objects, report.contradicted), (0, 1), "{report:?}");
    assert_eq!(house.slots().await, slots);
    house.all_come_back().await;
    assert_eq!(house.verdict(Depth::Authentic).await, (Verdict::Fail, vec![name.key().to_string()]));
}
