//! Which pages a walk over a tree reads next.
//!
//! Every interior page names its children in the order of their keys. When the children of one are read one
//! after another it is a walk, and what comes next is known; the longer the walk, the further ahead. A single
//! search reads one child of each page and asks for nothing ahead. A wrong guess costs bytes and never rows.

use std::collections::{HashMap, VecDeque};

/// Interior pages remembered: enough for the levels of several trees that are read side by side.
const INTERIORS_MAX: usize = 64;
/// Pages asked for at the first sign of a walk.
const BEGIN: usize = 16;
/// Interior pages asked for ahead: each leads to hundreds of pages, and lies far from the next.
const INTERIORS_AHEAD: usize = 1;

/// The guess of one connection.
pub(super) struct Ahead {
    most: usize,
    interiors: HashMap<u32, Interior>,
    /// Oldest first.
    seen: VecDeque<u32>,
    parent: HashMap<u32, (u32, usize)>,
}

struct Interior {
    children: Vec<u32>,
    /// The child read last.
    last: Option<usize>,
    /// How many children were read one after another.
    walked: usize,
    /// Children before this one were asked for ahead.
    asked: usize,
    /// Its children are interior pages themselves.
    is_high: bool,
}

impl Ahead {
    /// `most` pages are asked for ahead at once, at the most.
    pub(super) fn new(most: usize) -> Self {
        Self { most, interiors: HashMap::new(), seen: VecDeque::new(), parent: HashMap::new() }
    }

    /// A page is about to be read: gives what will be wanted after it. `at_hand` gives a page that needs no
    /// waiting, to look for the children of the next interior page.
    pub(super) fn before(&mut self, page: u32, at_hand: impl Fn(u32) -> Option<Vec<u8>>) -> Vec<u32> {
        let Some(walked) = self.step(page) else { return Vec::new() };
        if walked == 0 {
            return Vec::new();
        }
        let Some((parent, at)) = self.parent.get(&page).copied() else { return Vec::new() };
        let is_high = self.interiors.get(&parent).is_some_and(|interior| interior.is_high);
        let most = if is_high { INTERIORS_AHEAD } else { self.most };
        let window = BEGIN.saturating_mul(1 << walked.min(16)).min(most);
        let already = self.asked_behind(parent, at + 1);
        // Asked for in halves of the window, so that requests are few and large.
        if already > window / 2 { Vec::new() } else { self.extend((parent, at + 1), window, at_hand) }
    }

    /// How many pages behind this place were asked for, without a gap.
    fn asked_behind(&self, mut parent: u32, mut from: usize) -> usize {
        let mut already = 0;
        for _ in 0..INTERIORS_MAX {
            let Some(interior) = self.interiors.get(&parent) else { break };
            already += interior.asked.saturating_sub(from);
            let Some(next) = self.neighbour(parent).filter(|_| interior.asked >= interior.children.len()) else {
                break;
            };
            (parent, from) = (next, 0);
        }
        already
    }

    /// Asks for what was not asked for yet of the `window` pages behind a place.
    fn extend(
        &mut self,
        (mut parent, mut from): (u32, usize),
        window: usize,
        at_hand: impl Fn(u32) -> Option<Vec<u8>>,
    ) -> Vec<u32> {
        let (mut left, mut wanted) = (window, Vec::new());
        // An interior page has at least two children.
        for _ in 0..INTERIORS_MAX {
            let Some(interior) = self.interiors.get_mut(&parent) else { break };
            let end = interior.children.len().min(from + left);
            if interior.asked < end {
                wanted.extend_from_slice(interior.children.get(interior.asked.max(from)..end).unwrap_or_default());
                interior.asked = end;
            }
            left = left.saturating_sub(end.saturating_sub(from));
            if left == 0 || end < interior.children.len() {
                break;
            }
            let Some(next) = self.neighbour(parent) else { break };
            if !self.interiors.contains_key(&next) {
                match at_hand(next) {
                    Some(bytes) => self.after(next, &bytes),
                    None => {
                        wanted.push(next);
                        break;
                    }
                }
            }
            (parent, from) = (next, 0);
        }
        wanted
    }

    /// A page was read.
    pub(super) fn after(&mut self, page: u32, bytes: &[u8]) {
        let Some(children) = children_of(page, bytes) else { return };
        if self.interiors.contains_key(&page) {
            return;
        }
        if let Some((parent, _)) = self.parent.get(&page).copied()
            && let Some(above) = self.interiors.get_mut(&parent)
        {
            above.is_high = true;
        }
        // The ones above are few, and lead from one to the next.
        let is_low = |page: &u32| self.interiors.get(page).is_none_or(|interior| !interior.is_high);
        if self.seen.len() >= INTERIORS_MAX
            && let Some(oldest) = self.seen.remove(self.seen.iter().position(is_low).unwrap_or(0))
            && let Some(gone) = self.interiors.remove(&oldest)
        {
            gone.children.iter().for_each(|child| {
                self.parent.remove(child);
            });
        }
        children.iter().enumerate().for_each(|(at, child)| {
            self.parent.insert(*child, (page, at));
        });
        self.seen.push_back(page);
        self.interiors.insert(page, Interior { children, last: None, walked: 0, asked: 0, is_high: false });
    }

    /// How long the walk is that this page belongs to: 0 when it is none.
    fn step(&mut self, page: u32) -> Option<usize> {
        let (parent, at) = *self.parent.get(&page)?;
        // A walk that comes from the last child of the page before goes on with the first of the next.
        let carried = (at == 0).then(|| self.before_of(parent)).flatten().unwrap_or(0);
        let interior = self.interiors.get_mut(&parent)?;
        interior.walked = match interior.last {
            Some(last) if last == at => interior.walked,
            Some(last) if last + 1 == at => interior.walked + 1,
            None => carried,
            Some(_) => 0,
        };
        if interior.walked == 0 {
            interior.asked = interior.asked.min(at + 1);
        }
        interior.last = Some(at);
        Some(interior.walked)
    }

    /// How long the walk was that ended with the last child of the page before this one.
    fn before_of(&self, page: u32) -> Option<usize> {
        let (parent, at) = *self.parent.get(&page)?;
        let before = self.interiors.get(&parent)?.children.get(at.checked_sub(1)?)?;
        let before = self.interiors.get(before)?;
        (before.last.map(|last| last + 1) == Some(before.children.len())).then_some(before.walked + 1)
    }

    fn neighbour(&self, page: u32) -> Option<u32> {
        let (parent, at) = *self.parent.get(&page)?;
        self.interiors.get(&parent)?.children.get(at + 1).copied()
    }
}

/// The children of an interior page of a tree in the order of their keys; `None` for every other page.
pub fn children_of(page: u32, bytes: &[u8]) -> Option<Vec<u32>> {
    const LEAST: usize = 12;
    let head = if page == 1 { 100 } else { 0 };
    let of = |at: usize, len: usize| bytes.get(at..at.checked_add(len)?);
    let number = |at: usize| of(at, 4).and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
    let short = |at: usize| of(at, 2).and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?)));
    if !matches!(bytes.get(head), Some(2 | 5)) {
        return None;
    }
    let count = usize::from(short(head + 3)?);
    let mut children = Vec::with_capacity(count.min(bytes.len() / 6) + 1);
    for at in 0..count {
        children.push(number(usize::from(short(head + LEAST + 2 * at)?))?);
    }
    children.push(number(head + 8)?);
    children.iter().all(|child| *child > 1).then_some(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interior(children: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let (right, cells) = children.split_last().expect("a child");
        bytes[0] = 5;
        bytes[3..5].copy_from_slice(&(cells.len() as u16).to_be_bytes());
        bytes[8..12].copy_from_slice(&right.to_be_bytes());
        for (at, child) in cells.iter().enumerate() {
            let cell = 4096 - 6 * (at + 1);
            bytes[12 + 2 * at..14 + 2 * at].copy_from_slice(&(cell as u16).to_be_bytes());
            bytes[cell..cell + 4].copy_from_slice(&child.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn children_come_in_the_order_of_keys_and_rubbish_has_none() {
        assert_eq!(children_of(9, &interior(&[4, 9, 7])), Some(vec![4, 9, 7]));
        assert_eq!(children_of(9, &[0; 512]), None);
        let mut cut = interior(&[4, 9, 7]);
        cut.truncate(300);
        assert_eq!(children_of(9, &cut), None);
        cut = interior(&[4, 9, 7]);
        cut[3] = 0xff;
        assert_eq!(children_of(9, &cut), None);
    }

    #[test]
    fn one_search_asks_for_nothing_ahead() {
        let mut ahead = Ahead::new(1000);
        ahead.after(2, &interior(&[10, 11, 12, 13]));
        for page in [2, 12, 2, 10, 2, 13] {
            assert_eq!(ahead.before(page, |_| None), Vec::<u32>::new(), "{page}");
        }
    }

    #[test]
    fn a_walk_asks_once_for_each_and_goes_on_at_the_next_page() {
        let mut ahead = Ahead::new(1000);
        let (left, right): (Vec<u32>, Vec<u32>) = ((100..160).collect(), (200..240).collect());
        ahead.after(2, &interior(&[3, 4]));
        ahead.after(3, &interior(&left));
        let next = interior(&right);
        let mut asked = Vec::new();
        for page in &left {
            asked.extend(ahead.before(*page, |page| (page == 4).then(|| next.clone())));
        }
        for page in &right {
            asked.extend(ahead.before(*page, |_| None));
        }
        let wanted: Vec<u32> = left.iter().skip(2).chain(&right).copied().collect();
        assert_eq!(asked, wanted);
    }

    /// Two hundred interior pages, each in a frame of its own, once filled the whole cache.
    #[test]
    fn a_walk_asks_for_one_interior_page_ahead() {
        let mut ahead = Ahead::new(1000);
        let above: Vec<u32> = (3..90).collect();
        ahead.after(2, &interior(&above));
        let children = |page: u32| -> Vec<u32> { (page * 100..page * 100 + 50).collect() };
        let (mut asked, mut read) = (std::collections::HashSet::new(), 0);
        for page in &above {
            asked.extend(ahead.before(*page, |_| None));
            ahead.after(*page, &interior(&children(*page)));
            for child in children(*page) {
                read += 1;
                asked.extend(ahead.before(child, |_| None));
                let interiors = asked.iter().filter(|asked| **asked > *page && **asked < 90).count();
                assert!(interiors <= 2, "{interiors} at {page}");
            }
        }
        let leaves = asked.iter().filter(|page| **page >= 300).count();
        assert!(leaves > read * 9 / 10, "{leaves} of {read}");
    }

    #[test]
    fn a_next_page_that_is_not_at_hand_is_asked_for_itself() {
        let mut ahead = Ahead::new(1000);
        ahead.after(2, &interior(&[3, 4]));
        ahead.after(3, &interior(&[10, 11, 12]));
        assert_eq!(ahead.before(10, |_| None), Vec::<u32>::new());
        assert_eq!(ahead.before(11, |_| None), vec![12, 4]);
    }
}
