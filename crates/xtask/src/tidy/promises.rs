//! Every promise in `docs/promises.md` names tests that exist and run, or says that it has none yet.

use super::House;
use crate::finding::Finding;

const PAGE: &str = "docs/promises.md";
const COUNT: usize = 10;
const WHY: &str = "a promise is worth what its test is worth";

/// `crate::path::test_name`: at least a crate and a test, of identifier characters.
fn is_test_name(text: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    text.contains("::") && text.split("::").all(word)
}

pub fn judge(house: &House) -> Vec<Finding> {
    let Some(page) = house.tree.text(PAGE) else {
        return vec![finding(1, "the page is missing".to_owned(), "write it".to_owned())];
    };
    let rows: Vec<(usize, &str)> = page.lines().enumerate().filter_map(row).collect();
    let mut findings = Vec::new();
    if rows.len() != COUNT {
        let what = format!("{} promises, not {COUNT}", rows.len());
        findings.push(finding(1, what, "keep one row per promise: `| number | promise | tests |`".to_owned()));
    }
    for (line, tests) in rows {
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !tests.contains("*not yet*") {
            let instead = "name its tests in backticks, or write *not yet*".to_owned();
            findings.push(finding(line, "a promise without a test".to_owned(), instead));
        }
        findings.extend(named.into_iter().filter_map(|name| named_test(house, line, name)));
    }
    findings
}

/// The last cell of a numbered row, with its line number.
fn row((i, line): (usize, &str)) -> Option<(usize, &str)> {
    let mut cells = line.strip_prefix('|')?.trim_end().strip_suffix('|')?.split('|');
    cells.next()?.trim().parse::<usize>().ok()?;
    Some((i + 1, cells.next_back()?.trim()))
}

fn named_test(house: &House, line: usize, name: &str) -> Option<Finding> {
    if !is_test_name(name) {
        let what = format!("`{name}` is not a test's name");
        return Some(finding(line, what, "write `crate::path::test_name`".to_owned()));
    }
    match house.sources.tests.get(name) {
        Some(false) => None,
        Some(true) => Some(finding(line, format!("`{name}` is ignored"), "let it run".to_owned())),
        None => Some(finding(line, format!("`{name}` does not exist"), nearest(house, name))),
    }
}

fn nearest(house: &House, name: &str) -> String {
    let last = name.rsplit("::").next().unwrap_or(name);
    match house.sources.tests.keys().find(|known| known.rsplit("::").next() == Some(last)) {
        Some(known) => format!("write `{known}`"),
        None => "name a test that exists, or write *not yet*".to_owned(),
    }
}

fn finding(line: usize, what: String, instead: String) -> Finding {
    Finding { file: PAGE.to_owned(), line, what, why: WHY, instead }
}
