//! Rows as statements.

use super::shape::{Identity, TableShape};
use crate::error::SqliteError;
use crate::ffi::Go;
use crate::lazy::{Row, Session, Value, quoted};

/// The columns an INSERT names: the identity too, where it is no column.
pub(super) fn insert_columns(shape: &TableShape) -> Vec<String> {
    let rowid = match &shape.identity {
        Identity::Rowid(name) => Some((*name).to_owned()),
        Identity::Key(_) => None,
    };
    rowid.into_iter().chain(shape.stored().map(str::to_owned)).collect()
}

pub(super) fn list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

fn values(row: &[Value]) -> String {
    row.iter().map(Value::sql).collect::<Vec<_>>().join(", ")
}

/// `verb` is `INSERT`, `INSERT OR IGNORE` or `INSERT OR REPLACE`.
pub(super) fn insert(verb: &str, table: &str, columns: &[String], row: &[Value]) -> String {
    format!("{verb} INTO {}({}) VALUES ({});", quoted(table), list(columns), values(row))
}

fn condition(identity: &Identity, key: &[Value]) -> String {
    let terms = identity.columns().into_iter().zip(key);
    // `=` would follow the collation of the column: two rows of another moment may differ in case alone.
    terms
        .map(|(name, value)| format!("{} IS {} COLLATE BINARY", quoted(name), value.sql()))
        .collect::<Vec<_>>()
        .join(" AND ")
}

pub(super) fn delete(table: &str, identity: &Identity, key: &[Value]) -> String {
    format!("DELETE FROM {} WHERE {};", quoted(table), condition(identity, key))
}

/// Sets the columns named in `set`.
pub(super) fn update(table: &str, identity: &Identity, key: &[Value], set: &[(String, Value)]) -> String {
    let set = set.iter().map(|(name, value)| format!("{} = {}", quoted(name), value.sql()));
    let set = set.collect::<Vec<_>>().join(", ");
    format!("UPDATE {} SET {set} WHERE {};", quoted(table), condition(identity, key))
}

/// A table's rows as statements that bring them into another database.
pub fn export(
    session: &Session,
    (table, name, condition): (&str, &str, Option<&str>),
    verb: &str,
    stop: &dyn Fn() -> Go,
    each: &mut dyn FnMut(&str) -> Go,
) -> Result<Option<u64>, SqliteError> {
    let Some(shape) = TableShape::of(session.conn(), table).map_err(|error| session.said(error))? else {
        return Ok(None);
    };
    let columns = insert_columns(&shape);
    let filter = condition.map_or_else(String::new, |condition| format!(" WHERE ({condition})"));
    let select = format!("SELECT {} FROM {}{filter}", list(&columns), quoted(&shape.name));
    let mut rows = 0;
    session.ask(&select, &[], stop, &mut |_, row: Row| {
        rows += 1;
        each(&insert(verb, name, &columns, &row))
    })?;
    Ok(Some(rows))
}
