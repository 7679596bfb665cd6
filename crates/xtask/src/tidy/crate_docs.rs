//! The first line of a crate's docs is its rule, word for word as ARCHITECTURE.md states it.

use super::House;
use crate::finding::Finding;

pub fn judge(house: &House) -> Vec<Finding> {
    let table = house.tree.text("ARCHITECTURE.md").map(rules).unwrap_or_default();
    house.tree.crates().into_iter().filter_map(|name| crate_rule(house, &table, name)).collect()
}

/// Rows of the code map: `` | `crate` | rule | ... | ``.
fn rules(text: &str) -> Vec<(&str, &str)> {
    text.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<(&str, &str)> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
    Some((name, cells.next()?))
}

fn crate_rule(house: &House, table: &[(&str, &str)], name: &str) -> Option<Finding> {
    let Some((_, rule)) = table.iter().find(|(known, _)| *known == name) else {
        return Some(Finding {
            file: "ARCHITECTURE.md".to_owned(),
            line: 1,
            what: format!("crate `{name}` is not in the code map"),
            why: "a crate exists only to enforce a rule, and the map says which",
            instead: format!("add a row `| `{name}` | its rule | what it holds |`"),
        });
    };
    let roots = ["lib.rs", "main.rs"].map(|file| format!("crates/{name}/src/{file}"));
    let root = roots.iter().find(|path| house.tree.text(path).is_some())?;
    let first = house.tree.text(root)?.lines().next().unwrap_or_default();
    let said = first.strip_prefix("//! ").unwrap_or_default();
    (said != *rule).then(|| Finding {
        file: root.clone(),
        line: 1,
        what: format!("the first line says `{first}`"),
        why: "a crate's docs begin with the rule it enforces",
        instead: format!("write `//! {rule}`, or change the rule in ARCHITECTURE.md too"),
    })
}
