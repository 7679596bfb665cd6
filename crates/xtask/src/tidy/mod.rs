//! The house rules a compiler does not check, each a pure function from the tree to findings.
//!
//! Owns the list of rules. A rule never touches the disk: it is handed a [`Tree`], so that its own
//! test is a tree of two short files that must fail.

mod crate_docs;
mod dead;
mod edges;
mod formats;
mod leftovers;
mod links;
mod promises;
mod size;

#[cfg(test)]
mod tests;

use crate::finding::Finding;
use crate::sources::Sources;
use crate::tree::Tree;

pub use size::measure;

/// What every rule judges: the text, and the Rust in it read once.
pub struct House {
    pub tree: Tree,
    pub sources: Sources,
}

impl House {
    pub fn new(tree: Tree) -> House {
        let sources = Sources::read(&tree);
        House { tree, sources }
    }
}

pub struct Rule {
    pub name: &'static str,
    pub judge: fn(&House) -> Vec<Finding>,
}

pub const RULES: &[Rule] = &[
    Rule { name: "parses", judge: |house| house.sources.unreadable.clone() },
    Rule { name: "edges", judge: edges::judge },
    Rule { name: "dependencies", judge: edges::reasons },
    Rule { name: "size", judge: size::judge },
    Rule { name: "dead files", judge: dead::sources },
    Rule { name: "dead pages", judge: dead::pages },
    Rule { name: "crate docs", judge: crate_docs::judge },
    Rule { name: "leftovers", judge: leftovers::code },
    Rule { name: "private places", judge: leftovers::places },
    Rule { name: "promises", judge: promises::judge },
    Rule { name: "links", judge: links::judge },
    Rule { name: "formats", judge: formats::judge },
];

/// All findings of all rules, each under the name of its rule.
pub fn judge(house: &House) -> Vec<(&'static str, Finding)> {
    let mut all: Vec<_> =
        RULES.iter().flat_map(|rule| (rule.judge)(house).into_iter().map(|finding| (rule.name, finding))).collect();
    all.sort_by(|a, b| a.1.cmp(&b.1));
    all
}
