//! Which rows can differ between two moments, found from the pages that differ.
//!
//! The way to a row leads from its table's root over pages to a leaf, and from there over the pages with the rest of
//! it. Where none of those differs, the row is the same. So it is enough to find for each page that differs which
//! rows it leads to: a leaf and an interior page have keys, and a search for one of them ends at the page, or passes
//! it, in the tree that it belongs to. Pages that lead to no row are the free ones, those of indexes, and SQLite's own
//! maps. The rest of a row may change without its leaf: a page that nobody accounts for makes this give up, and
//! everything is compared.
//!
//! Nothing is believed that would leave a row out: whatever is not understood is compared.

use super::tree::{Side, Span, Tree};
use crate::error::SqliteError;
use crate::ffi::Go;
use crate::lazy::{PageFault, PageSource, Session};
use rusqlite::ffi;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Pages that are asked for at once.
const BATCH: usize = 64;

/// What has to be compared of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    /// Rows with these numbers, first and last; none when nothing differs.
    Rows(Vec<(i64, i64)>),
}

/// What has to be compared of each table that both moments have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes {
    tables: HashMap<String, Scope>,
}

impl Scopes {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    pub fn of(&self, table: &str) -> Scope {
        self.tables.get(table).cloned().unwrap_or(Scope::All)
    }
}

/// Finds it from the pages that may differ, in order.
pub fn narrow(
    (before, after): (&Session, &Session),
    (old, new): (&dyn PageSource, &dyn PageSource),
    changed: &[u32],
    stop: &dyn Fn() -> Go,
) -> Result<Scopes, SqliteError> {
    let trees = (trees_of(before)?, trees_of(after)?);
    let found = Narrowing::begin((old, new), trees).and_then(|narrowing| match narrowing {
        Some(narrowing) => narrowing.run(changed, stop),
        None => Ok(None),
    });
    let fault = |fault| SqliteError::Page { code: ffi::SQLITE_IOERR_READ, fault };
    Ok(found.map_err(fault)?.unwrap_or_default())
}

/// The tables of a moment: their names, and where their trees begin.
fn trees_of(session: &Session) -> Result<Vec<Tree>, SqliteError> {
    use crate::lazy::Value;
    let sql = "SELECT s.name, s.rootpage, coalesce(l.wr, 0) FROM sqlite_schema s
               LEFT JOIN pragma_table_list l ON l.schema = 'main' AND l.name = s.name
               WHERE s.type = 'table' AND s.rootpage > 0";
    let mut trees = vec![Tree::new("sqlite_schema", 1, true)];
    for row in session.rows(sql, &[])? {
        let [Value::Text(name), Value::Integer(root), Value::Integer(without)] = row.as_slice() else { continue };
        let root = u32::try_from(*root).unwrap_or(0);
        trees.push(Tree::new(&String::from_utf8_lossy(name), root, *without == 0));
    }
    Ok(trees)
}

/// One moment, and what its pages that differ turned out to be.
struct Moment<'a> {
    side: Side<'a>,
    trees: Vec<Tree>,
    /// Of tables with row numbers, with one of the keys on the page.
    leaves: Vec<(u32, Option<i64>)>,
    interiors: Vec<(u32, Option<i64>)>,
    has_index_pages: bool,
    /// Neither.
    others: Vec<u32>,
    /// Where rows go on from leaves that differ, and over how many pages.
    chains: Vec<(u32, u64)>,
    /// The tables that pages belong to, and the rows they lead to.
    located: BTreeMap<u32, (usize, Span)>,
}

struct Narrowing<'a> {
    old: Moment<'a>,
    new: Moment<'a>,
}

impl<'a> Narrowing<'a> {
    fn begin(
        (old, new): (&'a dyn PageSource, &'a dyn PageSource),
        (old_trees, new_trees): (Vec<Tree>, Vec<Tree>),
    ) -> Result<Option<Self>, PageFault> {
        let (Some(old), Some(new)) = (Side::of(old)?, Side::of(new)?) else { return Ok(None) };
        let is_alike = old.is_like(&new);
        let moment = |side, trees| Moment {
            side,
            trees,
            leaves: Vec::new(),
            interiors: Vec::new(),
            has_index_pages: false,
            others: Vec::new(),
            chains: Vec::new(),
            located: BTreeMap::new(),
        };
        Ok(is_alike.then(|| Self { old: moment(old, old_trees), new: moment(new, new_trees) }))
    }

    /// `None` when nothing can be left out.
    fn run(mut self, changed: &[u32], stop: &dyn Fn() -> Go) -> Result<Option<Scopes>, PageFault> {
        let mut differing = HashSet::new();
        for batch in changed.chunks(BATCH) {
            if stop() == Go::Stop {
                return Ok(None);
            }
            self.old.side.ahead(batch);
            self.new.side.ahead(batch);
            for page in batch {
                let (before, after) = (self.old.side.page(*page)?, self.new.side.page(*page)?);
                if before == after {
                    continue;
                }
                differing.insert(*page);
                before.into_iter().for_each(|bytes| self.old.note(*page, &bytes));
                after.into_iter().for_each(|bytes| self.new.note(*page, &bytes));
            }
        }
        for moment in [&mut self.old, &mut self.new] {
            if !moment.account_for_all(stop)? {
                return Ok(None);
            }
        }
        self.scopes(&differing).map(Some)
    }

    fn scopes(mut self, differing: &HashSet<u32>) -> Result<Scopes, PageFault> {
        let mut spans: HashMap<String, Vec<Span>> = HashMap::new();
        let both = [(&self.old, &self.new), (&self.new, &self.old)];
        for (here, there) in both {
            for (page, (tree, span)) in &here.located {
                let rows = here.rows_of(*page, (*tree, *span), there)?;
                if let Some(tree) = here.trees.get(*tree) {
                    spans.entry(tree.name.clone()).or_default().extend(rows);
                }
            }
        }
        let has_index_pages = self.old.has_index_pages || self.new.has_index_pages;
        let mut scopes = Scopes::default();
        let trees = std::mem::take(&mut self.new.trees);
        for tree in trees {
            let before = self.old.trees.iter().find(|other| other.name == tree.name);
            let is_same = before.is_some_and(|other| other.root == tree.root && other.has_rowids == tree.has_rowids);
            let scope = match (is_same, tree.has_rowids) {
                (false, _) => Scope::All,
                (true, true) => joined(spans.remove(&tree.name).unwrap_or_default()),
                (true, false) if !has_index_pages || !self.old.side.touches(tree.root, differing)? => {
                    Scope::Rows(Vec::new())
                }
                (true, false) => Scope::All,
            };
            scopes.tables.insert(tree.name, scope);
        }
        Ok(scopes)
    }
}

/// In order, those that meet as one.
fn joined(spans: Vec<Span>) -> Scope {
    let mut all: BTreeSet<Span> = spans.into_iter().collect();
    let mut rows: Vec<(i64, i64)> = Vec::new();
    while let Some(span) = all.pop_first() {
        match rows.last_mut().filter(|(_, last)| span.first <= last.saturating_add(1)) {
            Some((_, last)) => *last = span.last.max(*last),
            None => rows.push((span.first, span.last)),
        }
    }
    if rows.as_slice() == [(i64::MIN, i64::MAX)] { Scope::All } else { Scope::Rows(rows) }
}

impl Moment<'_> {
    /// Says what a page is that differs.
    fn note(&mut self, number: u32, bytes: &[u8]) {
        use backstay_format::sqlite::btree::PageKind;
        if self.side.is_own(number) {
            return;
        }
        let Some(page) = self.side.parse(number, bytes) else { return self.others.push(number) };
        match page.kind {
            PageKind::TableInterior => self.interiors.push((number, page.key(0))),
            PageKind::TableLeaf => self.leaves.push((number, page.cell(0).and_then(|cell| cell.rowid))),
            PageKind::IndexInterior | PageKind::IndexLeaf => self.has_index_pages = true,
        }
        let cells = (0..page.cells()).filter_map(|cell| page.cell(cell));
        for cell in cells {
            if let Some(next) = cell.overflow {
                let rest = cell.declared.saturating_sub(cell.local.len() as u64);
                self.chains.push((next, rest.div_ceil(self.side.room())));
            }
        }
    }

    /// Finds what every page is for; `false` when there is one of which that cannot be said.
    fn account_for_all(&mut self, stop: &dyn Fn() -> Go) -> Result<bool, PageFault> {
        let mut unknown = Vec::new();
        let pages: Vec<(u32, Option<i64>)> = self.interiors.drain(..).chain(self.leaves.drain(..)).collect();
        for (page, key) in pages {
            if stop() == Go::Stop {
                return Ok(false);
            }
            match self.locate(page, key)? {
                Some(place) => {
                    self.located.insert(page, place);
                }
                None => unknown.push(page),
            }
        }
        if unknown.is_empty() && self.others.is_empty() {
            return Ok(true);
        }
        let free = self.side.free()?;
        let mut others: HashSet<u32> = self.others.drain(..).filter(|page| !free.contains(*page)).collect();
        if unknown.iter().any(|page| !free.contains(*page)) {
            return Ok(false);
        }
        for (mut next, pages) in std::mem::take(&mut self.chains) {
            for _ in 0..pages {
                if others.is_empty() || stop() == Go::Stop {
                    break;
                }
                others.remove(&next);
                let Some(bytes) = self.side.page(next)? else { break };
                next = Side::next_of(&bytes);
            }
        }
        Ok(others.is_empty())
    }

    /// The table a page belongs to, and the rows it leads to. The tables that had the last ones are tried first.
    fn locate(&mut self, page: u32, key: Option<i64>) -> Result<Option<(usize, Span)>, PageFault> {
        if let Some(at) = self.trees.iter().position(|tree| tree.has_rowids && tree.root == page) {
            return Ok(Some((at, Span::ALL)));
        }
        let Some(key) = key else { return Ok(None) };
        let mut order: Vec<usize> = (0..self.trees.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(self.trees.get(*at).map(|tree| tree.hits)));
        for at in order {
            let Some(tree) = self.trees.get_mut(at).filter(|tree| tree.has_rowids) else { continue };
            if let Some(span) = self.side.search(tree, key, page)? {
                tree.hits += 1;
                return Ok(Some((at, span)));
            }
        }
        Ok(None)
    }

    /// The rows a page that differs stands for: of a leaf all; of an interior page those below children that it has
    /// not at the same place in the other moment.
    fn rows_of(&self, page: u32, (tree, span): (usize, Span), there: &Moment<'_>) -> Result<Vec<Span>, PageFault> {
        let Some(children) = self.side.children(page, span)? else { return Ok(vec![span]) };
        let name = self.trees.get(tree).map(|tree| &tree.name);
        let same_tree = |(_, (other, _)): &(&u32, &(usize, Span))| there.trees.get(*other).map(|t| &t.name) == name;
        let other = there.located.get_key_value(&page).filter(same_tree);
        let others = match other {
            Some((_, (_, span))) => there.side.children(page, *span)?.unwrap_or_default(),
            None => Vec::new(),
        };
        let others: HashSet<(u32, Span)> = others.into_iter().collect();
        Ok(children.into_iter().filter(|child| !others.contains(child)).map(|(_, span)| span).collect())
    }
}
