//! What masking needs to know of a schema.

use crate::error::SqliteError;
use crate::lazy::{Session, quoted};
use backstay_model::mask::{ColumnFacts, Fold, RowsAre, TableFacts};
use rusqlite::Connection;
use std::collections::BTreeMap;

/// Modules whose tables take rows and give them back.
const TAKES_ROWS: [&str; 6] = ["fts3", "fts4", "fts5", "rtree", "rtree_i32", "geopoly"];

/// The tables of a moment in the order they were made, without those that belong to others.
pub fn table_facts(session: &Session) -> Result<Vec<TableFacts>, SqliteError> {
    of(session.conn()).map_err(|error| session.said(error))
}

fn of(conn: &Connection) -> rusqlite::Result<Vec<TableFacts>> {
    let mut tables = Vec::new();
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for listed in list(conn)? {
        let (columns, key) = columns(conn, &listed)?;
        keys.insert(listed.name.to_ascii_lowercase(), key);
        let rows = match &listed.virtual_sql {
            None => RowsAre::Stored,
            Some(sql) => rows_of_module(conn, sql)?,
        };
        tables.push(TableFacts { name: listed.name, rows, columns });
    }
    for table in &mut tables {
        references(conn, table, &keys)?;
    }
    Ok(tables)
}

struct Listed {
    name: String,
    without_rowid: bool,
    virtual_sql: Option<String>,
}

fn list(conn: &Connection) -> rusqlite::Result<Vec<Listed>> {
    let sql = "SELECT l.name, l.wr, CASE l.type WHEN 'virtual' THEN s.sql END
               FROM pragma_table_list l JOIN sqlite_schema s ON s.name = l.name AND s.type = 'table'
               WHERE l.schema = 'main' AND l.type IN ('table', 'virtual') AND l.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
               ORDER BY s.rowid";
    let mut statement = conn.prepare(sql)?;
    let listed = |row: &rusqlite::Row<'_>| {
        Ok(Listed { name: row.get(0)?, without_rowid: row.get::<_, i64>(1)? != 0, virtual_sql: row.get(2)? })
    };
    statement.query_map([], listed)?.collect()
}

/// The columns, and the primary key in its order.
fn columns(conn: &Connection, table: &Listed) -> rusqlite::Result<(Vec<ColumnFacts>, Vec<String>)> {
    let mut found = Vec::new();
    let mut key: Vec<(i64, String, bool)> = Vec::new();
    let sql = "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([&table.name])?;
    while let Some(row) = rows.next()? {
        let (name, declared): (String, String) = (row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default());
        let (not_null, pk, hidden): (i64, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
        // What a module hides is its way to be asked, and no column with values.
        if hidden == 1 {
            continue;
        }
        if pk > 0 {
            key.push((pk, name.clone(), declared.eq_ignore_ascii_case("INTEGER")));
        }
        found.push(ColumnFacts {
            length: length(&declared),
            numeric: is_numeric(&declared),
            not_null: not_null != 0 || (pk > 0 && table.without_rowid),
            generated: hidden >= 2,
            unique: pk > 0,
            name,
            ..ColumnFacts::default()
        });
    }
    key.sort();
    if let [(_, name, true)] = key.as_slice() {
        // NULL in such a column is not stored: SQLite would choose a number.
        found.iter_mut().filter(|column| column.name == *name).for_each(|column| column.not_null = true);
    }
    if table.virtual_sql.is_none() {
        unique(conn, &table.name, &mut found)?;
    }
    Ok((found, key.into_iter().map(|(_, name, _)| name).collect()))
}

fn unique(conn: &Connection, table: &str, columns: &mut [ColumnFacts]) -> rusqlite::Result<()> {
    let sql = "SELECT x.name, x.coll FROM pragma_index_list(?1) i, pragma_index_xinfo(i.name) x
               WHERE i.\"unique\" = 1 AND x.key = 1 AND x.name IS NOT NULL";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([table])?;
    while let Some(row) = rows.next()? {
        let (name, coll): (String, String) = (row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default());
        let fold = match coll.to_ascii_uppercase().as_str() {
            "NOCASE" => Fold::Case,
            "RTRIM" => Fold::Trailing,
            _ => Fold::Exact,
        };
        for column in columns.iter_mut().filter(|column| column.name.eq_ignore_ascii_case(&name)) {
            column.unique = true;
            column.fold = column.fold.max(fold);
        }
    }
    Ok(())
}

fn references(conn: &Connection, table: &mut TableFacts, keys: &BTreeMap<String, Vec<String>>) -> rusqlite::Result<()> {
    let mut statement = conn.prepare("SELECT \"from\", \"table\", \"to\", seq FROM pragma_foreign_key_list(?1)")?;
    let mut rows = statement.query([&table.name])?;
    while let Some(row) = rows.next()? {
        let (from, parent, seq): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(3)?);
        let of_key = || keys.get(&parent.to_ascii_lowercase())?.get(usize::try_from(seq).ok()?).cloned();
        // Without a name the primary key is meant.
        let Some(to) = row.get::<_, Option<String>>(2)?.or_else(of_key) else { continue };
        for column in table.columns.iter_mut().filter(|column| column.name.eq_ignore_ascii_case(&from)) {
            column.references.push((parent.clone(), to.clone()));
        }
    }
    Ok(())
}

/// By SQLite's rules for declared types.
fn is_numeric(declared: &str) -> bool {
    let upper = declared.to_ascii_uppercase();
    let has = |part: &str| upper.contains(part);
    has("INT") || !(has("CHAR") || has("CLOB") || has("TEXT") || has("BLOB") || upper.is_empty() || upper == "ANY")
}

/// 20 of `VARCHAR(20)`.
fn length(declared: &str) -> Option<u16> {
    let upper = declared.to_ascii_uppercase();
    let (kind, rest) = upper.split_once('(')?;
    let is_text = ["CHAR", "TEXT", "CLOB"].iter().any(|part| kind.contains(part));
    rest.split([')', ',']).next()?.trim().parse().ok().filter(|length| is_text && *length > 0)
}

fn rows_of_module(conn: &Connection, sql: &str) -> rusqlite::Result<RowsAre> {
    let Some((module, arguments)) = module_of(sql) else { return Ok(RowsAre::UnknownModule(String::new())) };
    let known = conn.prepare("SELECT 1 FROM pragma_module_list WHERE name = ?1 COLLATE NOCASE")?.exists([&module])?;
    if !known {
        return Ok(RowsAre::UnknownModule(module));
    }
    if !TAKES_ROWS.contains(&module.to_ascii_lowercase().as_str()) {
        return Ok(RowsAre::Derived);
    }
    Ok(match content(&arguments).filter(|_| module.to_ascii_lowercase().starts_with("fts")) {
        None => RowsAre::Virtual,
        Some(content) if content.is_empty() => RowsAre::Contentless,
        Some(_) => RowsAre::Derived,
    })
}

/// Whether a search index is filled from another table by being told so.
pub(super) fn is_rebuilt(sql: &str) -> bool {
    module_of(sql).is_some_and(|(module, arguments)| {
        module.to_ascii_lowercase().starts_with("fts") && content(&arguments).is_some_and(|content| !content.is_empty())
    })
}

/// Whether its rows have a number besides their columns.
pub(super) fn has_rowid(sql: &str) -> bool {
    module_of(sql).is_some_and(|(module, _)| module.to_ascii_lowercase().starts_with("fts"))
}

/// `fts5`, and what stands between its parentheses.
fn module_of(sql: &str) -> Option<(String, String)> {
    let words = sql.trim_start();
    let words = words.get(..6).filter(|word| word.eq_ignore_ascii_case("CREATE")).and(words.get(6..))?;
    let mut rest = words.trim_start();
    for word in ["VIRTUAL", "TABLE"] {
        rest = after_word(rest, word)?;
    }
    for word in ["IF", "NOT", "EXISTS"] {
        rest = after_word(rest, word).unwrap_or(rest);
    }
    let rest = after_word(after_name(rest)?.trim_start(), "USING")?;
    let end = after_name(rest).map_or(rest.len(), |after| rest.len() - after.len());
    let (module, arguments) = rest.split_at(end);
    let arguments = arguments.trim().trim_start_matches('(').trim_end_matches(')');
    Some((bare(module), arguments.to_owned()))
}

fn after_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = text.split_at_checked(word.len())?;
    (first.eq_ignore_ascii_case(word) && rest.starts_with(char::is_whitespace)).then(|| rest.trim_start())
}

/// What follows a name, quoted or not.
fn after_name(text: &str) -> Option<&str> {
    let close = match text.chars().next()? {
        quote @ ('"' | '\'' | '`') => quote,
        '[' => ']',
        _ => {
            let end = text.find(|c: char| c.is_whitespace() || c == '(').unwrap_or(text.len());
            return text.get(end..);
        }
    };
    let mut rest = text.get(1..)?;
    loop {
        let end = rest.find(close)? + 1;
        rest = rest.get(end..)?;
        // A doubled quote stands for itself.
        match rest.strip_prefix(close) {
            Some(more) if close != ']' => rest = more,
            _ => return Some(rest),
        }
    }
}

fn bare(name: &str) -> String {
    name.trim().trim_matches(['"', '\'', '`', '[', ']']).to_owned()
}

/// The value of `content=`, if it is said.
fn content(arguments: &str) -> Option<String> {
    let said = arguments.split(',').find_map(|argument| {
        let (name, value) = argument.split_once('=')?;
        name.trim().eq_ignore_ascii_case("content").then(|| bare(value))
    })?;
    Some(said)
}

/// The select that gives the rows of a table, with its row number first where it has one of its own.
pub(super) fn select(table: &str, rowid: Option<&str>, columns: &[String]) -> String {
    let names = rowid.map(str::to_owned).into_iter().chain(columns.iter().map(|name| quoted(name)));
    format!("SELECT {} FROM {}", names.collect::<Vec<_>>().join(", "), quoted(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_in_every_way_to_write_them() {
        let all = [
            ("CREATE VIRTUAL TABLE docs USING fts5(title, body)", "fts5", None),
            ("CREATE VIRTUAL TABLE \"a using b\" using FTS5(x, content='')", "FTS5", Some("")),
            ("create virtual table if not exists 'it''s'\n  USING fts4 (x, content=\"items\")", "fts4", Some("items")),
            ("CREATE VIRTUAL TABLE [odd name] USING rtree(id, a, b)", "rtree", None),
            ("CREATE VIRTUAL TABLE v USING plain", "plain", None),
        ];
        for (sql, module, said) in all {
            let (found, arguments) = module_of(sql).expect(sql);
            assert_eq!((found.as_str(), content(&arguments).as_deref()), (module, said), "{sql}");
        }
        for sql in ["", "CREATE", "CREATE VIRTUAL TABLE", "CREATE TABLE x(a)", "CREATE VIRTUAL TABLE \"open"] {
            assert_eq!(module_of(sql), None, "{sql}");
        }
    }

    #[test]
    fn declared_types_say_length_and_affinity() {
        let found = ["VARCHAR(20)", "char (7)", "DECIMAL(10,2)", "TEXT", ""].map(|t| (length(t), is_numeric(t)));
        assert_eq!(found, [(Some(20), false), (Some(7), false), (None, true), (None, false), (None, false)]);
    }
}
