//! What a rescue says of itself: what was saved, what was lost as far as that can be known, and what
//! was guessed.

use super::schema::{Object, Schema};
use super::write::NewDatabase;
use backstay_format::sqlite::guess::Likeness;
use backstay_format::sqlite::walk::Met;
use backstay_model::Verdict;
use std::collections::BTreeSet;

/// One table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TableRescue {
    pub table: String,
    pub rows: u64,
    /// Rows among them that are there by a guess: their page lay in the wrong place, or nothing led to it.
    pub guessed: u64,
    /// Rows that are in `lost_and_found` instead.
    pub set_aside: u64,
    /// Pages its tree leads to that cannot be read or are none of it.
    pub bad_pages: u64,
    /// Rows that are missing, as far as can be told: from a bad page as many as a page of this table
    /// has, or more if that page led to others.
    pub lost_estimate: u64,
}

impl TableRescue {
    pub(super) fn of(name: &str, met: &Met, [saved, displaced, set_aside]: [u64; 3]) -> Self {
        let bad_pages = met.bad_page_count();
        let per_leaf = if met.leaves == 0 { 0 } else { met.rows.div_ceil(met.leaves) };
        Self {
            table: name.to_owned(),
            rows: saved,
            guessed: displaced,
            set_aside,
            bad_pages,
            lost_estimate: bad_pages * per_leaf + met.bad_cells,
        }
    }

    fn is_damaged(&self) -> bool {
        self.bad_pages > 0 || self.lost_estimate > 0 || self.set_aside > 0 || self.guessed > 0
    }
}

/// Something of the schema that could not be made again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refused {
    pub name: String,
    pub sql: Option<String>,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RescueReport {
    pub pages: u32,
    pub page_size: u32,
    pub tables: Vec<TableRescue>,
    /// Rows in the table of what belongs nowhere, and its name.
    pub lost_and_found: u64,
    pub lost_and_found_table: Option<String>,
    /// Bad pages, each once; at most a thousand of each tree.
    pub bad_pages: Vec<u32>,
    /// Pages of trees that nothing led to.
    pub orphan_pages: u64,
    /// Pages of the free list: rows that were deleted are left there.
    pub free_pages: u64,
    /// Indexes whose own pages were damaged; they are made anew.
    pub damaged_indexes: Vec<String>,
    pub refused: Vec<Refused>,
    /// What was guessed, as sentences.
    pub guesses: Vec<String>,
    /// Values too large or too many to be kept.
    pub cut_values: u64,
    /// Pages that were taken in another version, and in which. The caller knows what a version is.
    #[serde(skip)]
    pub replaced: Vec<(u32, usize)>,
}

impl RescueReport {
    pub(super) fn begin(pages: u32, likeness: &Likeness) -> Self {
        let size = likeness.shape.size.get();
        let guessed = format!("the header is damaged: pages are taken to be {size} bytes long");
        Self {
            pages,
            page_size: size,
            tables: Vec::new(),
            lost_and_found: 0,
            lost_and_found_table: None,
            bad_pages: Vec::new(),
            orphan_pages: 0,
            free_pages: 0,
            damaged_indexes: Vec::new(),
            refused: Vec::new(),
            guesses: likeness.is_guessed.then_some(guessed).into_iter().collect(),
            cut_values: 0,
            replaced: Vec::new(),
        }
    }

    pub(super) fn note_schema(&mut self, schema: &Schema) {
        self.note_met(&schema.met);
        if schema.met.bad_page_count() > 0 || schema.met.torn > 0 || schema.met.bad_cells > 0 {
            self.guesses.push("the schema is damaged: tables may be missing".to_owned());
        }
        if !schema.guessed.is_empty() {
            let names = schema.guessed.join(", ");
            self.guesses.push(format!("found apart from the rest of the schema: {names}"));
        }
    }

    pub(super) fn note_met(&mut self, met: &Met) {
        let known: BTreeSet<u32> = self.bad_pages.iter().copied().collect();
        self.bad_pages.extend(met.bad_pages.iter().filter(|page| !known.contains(page)));
    }

    pub(super) fn note_index(&mut self, name: &str, met: &Met) {
        self.note_met(met);
        if met.bad_page_count() > 0 || met.torn > 0 || met.bad_cells > 0 {
            self.damaged_indexes.push(name.to_owned());
        }
    }

    pub(super) fn note_orphan(&mut self, met: &Met) {
        self.cut_values += met.bad_cells;
    }

    pub(super) fn is_damaged(&self, table: &str) -> bool {
        self.tables.iter().any(|found| found.table == table && found.bad_pages > 0)
    }

    pub(super) fn guessed(&mut self, table: &str) {
        if let Some(found) = self.tables.iter_mut().find(|found| found.table == table) {
            found.rows += 1;
            found.guessed += 1;
        }
    }

    pub(super) fn refuse(&mut self, object: &Object, reason: &str) {
        let refused = Refused { name: object.name.clone(), sql: object.sql.clone(), reason: reason.to_owned() };
        self.refused.push(refused);
    }

    pub(super) fn end(&mut self, new: &NewDatabase) {
        self.lost_and_found = new.lost_rows;
        self.lost_and_found_table = new.lost_name().map(str::to_owned);
        self.cut_values += new.cut_values;
        for table in self.tables.iter().filter(|table| table.guessed > 0) {
            self.guesses.push(format!(
                "{} rows of {} are there by where they lay and how they look",
                table.guessed, table.table
            ));
        }
    }

    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Pass when nothing was missing anywhere, fail when nothing was saved.
    pub fn verdict(&self) -> Verdict {
        let is_clean = !self.tables.iter().any(TableRescue::is_damaged)
            && [self.lost_and_found, self.cut_values, self.orphan_pages].iter().all(|count| *count == 0)
            && self.bad_pages.is_empty()
            && self.refused.is_empty()
            && self.guesses.is_empty()
            && self.replaced.is_empty();
        match (is_clean, self.rows() + self.lost_and_found) {
            (true, _) => Verdict::Pass,
            (false, 0) => Verdict::Fail,
            (false, _) => Verdict::Partial,
        }
    }
}
