//! What makes a schema, and what differs between two.

use crate::error::SqliteError;
use crate::lazy::{Session, Value, quoted};

/// One entry of a schema that has a statement of its own.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SchemaItem {
    /// `table`, `index`, `view` or `trigger`.
    pub kind: String,
    pub name: String,
    pub table: String,
    pub sql: String,
}

impl SchemaItem {
    pub(super) fn drop_sql(&self) -> String {
        format!("DROP {} {};", self.kind.to_uppercase(), quoted(&self.name))
    }

    pub(super) fn create_sql(&self) -> String {
        format!("{};", self.sql)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum SchemaChange {
    Created { item: SchemaItem },
    Dropped { item: SchemaItem },
    Changed { before: SchemaItem, after: SchemaItem },
}

/// Every entry, by kind and name.
pub fn schema_of(session: &Session) -> Result<Vec<SchemaItem>, SqliteError> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema
               WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type, name";
    let text = |value: Option<Value>| match value {
        Some(Value::Text(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        _ => String::new(),
    };
    let item = |row: Vec<Value>| {
        let mut values = row.into_iter();
        let mut next = || text(values.next());
        SchemaItem { kind: next(), name: next(), table: next(), sql: next() }
    };
    Ok(session.rows(sql, &[])?.into_iter().map(item).collect())
}

pub fn schema_changes(before: &[SchemaItem], after: &[SchemaItem]) -> Vec<SchemaChange> {
    let same = |a: &SchemaItem, b: &SchemaItem| (&a.kind, &a.name) == (&b.kind, &b.name);
    let mut changes = Vec::new();
    for item in before {
        match after.iter().find(|other| same(item, other)) {
            None => changes.push(SchemaChange::Dropped { item: item.clone() }),
            Some(other) if other != item => {
                changes.push(SchemaChange::Changed { before: item.clone(), after: other.clone() });
            }
            Some(_) => {}
        }
    }
    let created = after.iter().filter(|item| !before.iter().any(|other| same(item, other)));
    changes.extend(created.map(|item| SchemaChange::Created { item: item.clone() }));
    changes
}
