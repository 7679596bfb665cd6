//! SQL that turns one moment into another.
//!
//! What goes, goes before what comes, so that no unique value is in the way of its successor. Triggers of touched
//! tables are taken off meanwhile: the rows that they made are rows of their own. References are switched off for
//! the run, because rows are deleted that come back.

use super::diff::{Change, Compared, Tables, compare_table, tables_of};
use super::narrow::Scopes;
use super::schema::{SchemaChange, SchemaItem, schema_changes, schema_of};
use super::shape::{Identity, TableShape};
use super::sql;
use crate::error::SqliteError;
use crate::ffi::Go;
use crate::lazy::{Row, Session, Value};
use std::collections::BTreeSet;

/// Takes one statement.
pub type ScriptSink<'a> = &'a mut dyn FnMut(&str) -> Go;

struct Script<'a> {
    before: &'a Session,
    after: &'a Session,
    stop: &'a dyn Fn() -> Go,
    scopes: &'a Scopes,
    tables: Tables,
    /// Made anew: their statement is another, or their rows have another identity.
    rebuilt: BTreeSet<String>,
    old: Vec<SchemaItem>,
    new: Vec<SchemaItem>,
    stopped: bool,
}

/// Writes the statements, of one table or of all. Gives the number of virtual tables that were left out.
pub fn script(
    (before, after): (&Session, &Session),
    (only, scopes): (Option<&str>, &Scopes),
    stop: &dyn Fn() -> Go,
    out: ScriptSink<'_>,
) -> Result<Vec<String>, SqliteError> {
    let tables = tables_of(before, after, only)?;
    let is_meant = |item: &SchemaItem| only.is_none_or(|name| item.table.eq_ignore_ascii_case(name));
    let of = |session| Ok::<_, SqliteError>(schema_of(session)?.into_iter().filter(is_meant).collect::<Vec<_>>());
    let (old, new) = (of(before)?, of(after)?);
    let mut rebuilt = BTreeSet::new();
    for change in schema_changes(&old, &new) {
        if let SchemaChange::Changed { after, .. } = change
            && after.kind == "table"
        {
            rebuilt.insert(after.name);
        }
    }
    rebuilt.extend(tables.only_after.iter().map(|shape| shape.name.clone()));
    rebuilt.extend(tables.only_before.iter().map(|shape| shape.name.clone()));
    let mut script = Script { before, after, stop, scopes, tables, rebuilt, old, new, stopped: false };
    script.write(out)?;
    Ok(script.tables.virtual_tables)
}

impl Script<'_> {
    fn write(&mut self, out: ScriptSink<'_>) -> Result<(), SqliteError> {
        let mut body: Vec<usize> = Vec::new();
        for at in 0..self.tables.common.len() {
            if self.common(at).is_some_and(|compared| !self.rebuilt.contains(&compared.after.name)) {
                body.push(at);
            }
        }
        self.say(out, "PRAGMA foreign_keys=OFF;");
        self.say(out, "BEGIN;");
        self.take_off(out);
        // Two passes over the same rows: what goes, then what comes.
        for at in &body {
            self.rows(*at, Pass::Goes, out)?;
        }
        self.put_up_tables(out)?;
        for at in &body {
            self.rows(*at, Pass::Comes, out)?;
        }
        self.put_on(out);
        self.say(out, "COMMIT;");
        Ok(())
    }

    fn say(&mut self, out: ScriptSink<'_>, sql: &str) {
        if !self.stopped && out(sql) == Go::Stop {
            self.stopped = true;
        }
    }

    fn common(&self, at: usize) -> Option<&Compared> {
        self.tables.common.get(at)
    }

    /// Whether an entry stays as it is through all of it.
    fn stays(&self, item: &SchemaItem) -> bool {
        let is_in_both = self.old.contains(item) && self.new.contains(item);
        let of_rebuilt = self.rebuilt.contains(&item.table);
        match item.kind.as_str() {
            "trigger" => false,
            "view" => is_in_both,
            _ => is_in_both && !of_rebuilt,
        }
    }

    fn take_off(&mut self, out: ScriptSink<'_>) {
        for kind in ["trigger", "view", "index", "table"] {
            let going: Vec<String> = self
                .old
                .iter()
                .filter(|item| item.kind == kind && !self.stays(item))
                // An index of a table that goes is gone with it.
                .filter(|item| kind != "index" || !self.rebuilt.contains(&item.table))
                .map(SchemaItem::drop_sql)
                .collect();
            going.iter().for_each(|sql| self.say(out, sql));
        }
    }

    fn put_up_tables(&mut self, out: ScriptSink<'_>) -> Result<(), SqliteError> {
        let coming: Vec<SchemaItem> =
            self.new.iter().filter(|item| item.kind == "table" && !self.stays(item)).cloned().collect();
        for item in coming {
            self.say(out, &item.create_sql());
            let (name, stop) = (item.name.as_str(), self.stop);
            let mut stopped = self.stopped;
            sql::export(self.after, (name, name, None), "INSERT", stop, &mut |sql| {
                if stopped || out(sql) == Go::Stop {
                    stopped = true;
                    return Go::Stop;
                }
                Go::On
            })?;
            self.stopped = stopped;
        }
        Ok(())
    }

    fn put_on(&mut self, out: ScriptSink<'_>) {
        for kind in ["index", "view", "trigger"] {
            let coming: Vec<String> =
                self.new.iter().filter(|i| i.kind == kind && !self.stays(i)).map(SchemaItem::create_sql).collect();
            coming.iter().for_each(|sql| self.say(out, sql));
        }
    }

    fn rows(&mut self, at: usize, pass: Pass, out: ScriptSink<'_>) -> Result<(), SqliteError> {
        let Some(compared) = self.common(at).cloned() else { return Ok(()) };
        let is_unique = self.has_unique(&compared.after)?;
        let writer = RowWriter { compared: &compared, pass, is_unique };
        let mut stopped = self.stopped;
        let scope = self.scopes.of(&compared.after.name);
        compare_table((self.before, self.after), (&compared, &scope), self.stop, &mut |change| {
            if let Some(sql) = writer.statement(change)
                && (stopped || out(&sql) == Go::Stop)
            {
                stopped = true;
                return Go::Stop;
            }
            Go::On
        })?;
        self.stopped = stopped;
        Ok(())
    }

    /// Whether a row could stand in another's way besides by its identity.
    fn has_unique(&self, shape: &TableShape) -> Result<bool, SqliteError> {
        let sql = "SELECT 1 FROM pragma_index_list(?1) WHERE \"unique\" = 1";
        let name = Value::Text(shape.name.as_bytes().to_owned());
        Ok(!self.after.rows(sql, &[name])?.is_empty())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Goes,
    Comes,
}

struct RowWriter<'a> {
    compared: &'a Compared,
    pass: Pass,
    is_unique: bool,
}

impl RowWriter<'_> {
    fn statement(&self, change: Change) -> Option<String> {
        match (change, self.pass) {
            (Change::Removed(row), Pass::Goes) => Some(self.delete(&row)),
            (Change::Added(row), Pass::Comes) => Some(self.insert(&row)),
            (Change::Changed { before, .. }, Pass::Goes) if self.is_unique => Some(self.delete(&before)),
            (Change::Changed { after, .. }, Pass::Comes) if self.is_unique => Some(self.insert(&after)),
            (Change::Changed { before, after }, Pass::Comes) => Some(self.update(&before, &after)),
            _ => None,
        }
    }

    fn delete(&self, row: &Row) -> String {
        let key = row.get(..self.compared.key_len()).unwrap_or_default();
        sql::delete(&self.compared.after.name, &self.compared.identity, key)
    }

    fn insert(&self, row: &Row) -> String {
        // The identity stands twice where it is made of columns.
        let from = match self.compared.identity {
            Identity::Rowid(_) => 0,
            Identity::Key(_) => self.compared.key_len(),
        };
        let columns = self.compared.columns.get(from..).unwrap_or_default();
        sql::insert("INSERT", &self.compared.after.name, columns, row.get(from..).unwrap_or_default())
    }

    fn update(&self, before: &Row, after: &Row) -> String {
        let keys = self.compared.key_len();
        let all = self.compared.columns.iter().zip(before.iter().zip(after)).skip(keys);
        let set: Vec<(String, Value)> =
            all.filter(|(_, (a, b))| a != b).map(|(name, (_, b))| (name.clone(), b.clone())).collect();
        let key = after.get(..keys).unwrap_or_default();
        sql::update(&self.compared.after.name, &self.compared.identity, key, &set)
    }
}
