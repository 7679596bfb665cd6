//! Nothing lies about unused: every source is reached by `mod`, every page by a link.

use std::collections::BTreeSet;

use super::House;
use super::links::links;
use crate::finding::Finding;
use crate::sources::join;

pub fn sources(house: &House) -> Vec<Finding> {
    let dead = house.sources.unreachable.iter().filter(|path| !is_fixture(path));
    let finding = |path: &String| Finding {
        file: path.clone(),
        line: 1,
        what: "no `mod` line reaches this file".to_owned(),
        why: "the compiler never sees it, so nothing in it is true",
        instead: "declare it where it belongs, or delete it".to_owned(),
    };
    dead.map(finding).collect()
}

/// Text that looks like Rust but is data for a test.
fn is_fixture(path: &str) -> bool {
    path.contains("/fixtures/") || path.contains("/corpus/")
}

/// Follows links from the three doors: README, `docs/README.md`, ARCHITECTURE.
pub fn pages(house: &House) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut next = vec!["README.md".to_owned(), "docs/README.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    while let Some(path) = next.pop() {
        let Some(text) = house.tree.text(&path) else { continue };
        if !seen.insert(path.clone()) || !path.ends_with(".md") {
            continue;
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        next.extend(links(text).into_iter().map(|link| join(folder, link.file())));
    }
    let pages = house.tree.ending(".md").filter(|(path, _)| path.starts_with("docs/"));
    let dead = pages.filter(|(path, _)| !seen.contains(*path));
    let finding = |(path, _): (&str, &str)| Finding {
        file: path.to_owned(),
        line: 1,
        what: "no page leads here".to_owned(),
        why: "a page nobody can find is out of date and nobody knows",
        instead: "link it from docs/README.md, or delete it".to_owned(),
    };
    dead.map(finding).collect()
}
