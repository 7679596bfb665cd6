//! What is left of a schema: its rows, read from the tree that begins on the first page.

use super::lost::text_of;
use backstay_format::sqlite::TextEncoding;
use backstay_format::sqlite::btree::TreeKind;
use backstay_format::sqlite::record::Value;
use backstay_format::sqlite::walk::{Met, Orphan, Row, RowState, Walker};
use std::collections::HashSet;

/// Objects that are believed to be in one database.
const OBJECTS_MAX: usize = 100_000;

/// A row of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub kind: ObjectKind,
    pub name: String,
    pub root: u32,
    /// Absent for the index SQLite makes by itself.
    pub sql: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    Table,
    VirtualTable,
    Index,
    View,
    Trigger,
}

impl Object {
    pub fn is_index(&self) -> bool {
        self.kind == ObjectKind::Index && self.root > 0
    }
}

pub struct Schema {
    pub objects: Vec<Object>,
    pub met: Met,
    /// Names that were found on a page nothing leads to.
    pub guessed: Vec<String>,
}

/// Reads the schema. Where its own tree is broken, pages that hold nothing but rows of a schema are
/// taken for the rest of it.
pub fn read(walker: &mut Walker<'_>, encoding: TextEncoding) -> Schema {
    let mut objects: Vec<Object> = Vec::new();
    let met = walker.tree::<std::convert::Infallible>(1, TreeKind::Table, &mut |row| {
        objects.extend(object(row, encoding).filter(|_| objects.len() < OBJECTS_MAX));
        Ok(())
    });
    let Ok(met) = met;
    let mut schema = Schema { objects, met, guessed: Vec::new() };
    if schema.met.bad_page_count() > 0 {
        search(walker, encoding, &mut schema);
    }
    let mut names = HashSet::new();
    schema.objects.retain(|object| names.insert(object.name.to_lowercase()));
    schema
}

/// A page of which every row is one of a schema is a page of the schema: no table looks like that.
fn search(walker: &mut Walker<'_>, encoding: TextEncoding, schema: &mut Schema) {
    let known = walker.used.clone();
    let orphans: Vec<Orphan> = walker.orphans().into_iter().filter(|orphan| orphan.kind == TreeKind::Table).collect();
    for orphan in orphans {
        let (mut found, mut others) = (Vec::new(), 0);
        let read = walker.orphan::<std::convert::Infallible>(&orphan, &mut |row| {
            match object(row, encoding) {
                Some(object) => found.push(object),
                None => others += 1,
            }
            Ok(())
        });
        let Ok(_) = read;
        if others == 0 && !found.is_empty() && schema.objects.len() < OBJECTS_MAX {
            schema.guessed.extend(found.iter().map(|object| object.name.clone()));
            schema.objects.extend(found);
        }
    }
    walker.used = known;
}

fn object(row: &Row<'_>, encoding: TextEncoding) -> Option<Object> {
    let [kind, name, _, root, sql] = row.values.as_slice() else { return None };
    let text = |value: &Value<'_>| match value {
        Value::Text(bytes) => Some(text_of(bytes, encoding)),
        _ => None,
    };
    let sql = text(sql);
    let starts = |word: &str| {
        let head = sql.as_deref().unwrap_or_default().get(..word.len()).unwrap_or_default();
        head.eq_ignore_ascii_case(word)
    };
    let kind = match text(kind)?.as_str() {
        "table" if starts("CREATE VIRTUAL") => ObjectKind::VirtualTable,
        "table" if starts("CREATE TABLE") => ObjectKind::Table,
        "index" if sql.is_none() || starts("CREATE INDEX") || starts("CREATE UNIQUE INDEX") => ObjectKind::Index,
        "view" if starts("CREATE VIEW") => ObjectKind::View,
        "trigger" if starts("CREATE TRIGGER") => ObjectKind::Trigger,
        _ => return None,
    };
    let root = match root {
        Value::Integer(root) => u32::try_from(*root).unwrap_or(0),
        _ => 0,
    };
    let is_readable = row.state != RowState::Torn;
    is_readable.then_some(Object { kind, name: text(name)?, root, sql })
}
