//! Every format page is compared with its constants by a test, and every `layout.rs` names its page.
//!
//! The comparison itself is a test beside the `layout.rs`: it includes the page's text. This rule only
//! sees to it that there is no page without a comparison, and no constants without a page.

use super::House;
use crate::finding::Finding;

const PAGES: &str = "docs/formats/";
const WHY: &str = "bytes without a page die with us; a page nobody compares drifts";

pub fn judge(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    let pages = house.tree.ending(".md").map(|(path, _)| path).filter(|path| path.starts_with(PAGES));
    for page in pages.filter(|page| !page.ends_with("/README.md")) {
        let included = format!("../{page}\"");
        if !house.tree.ending(".rs").any(|(_, text)| text.contains(&included)) {
            findings.push(finding(page, "no test reads this page", "include it in the test beside its `layout.rs`"));
        }
    }
    for (path, text) in house.tree.ending("/layout.rs") {
        if !text.contains(PAGES) {
            let instead = "write the page under docs/formats, and name it in the module's docs";
            findings.push(finding(path, "these constants name no page", instead));
        }
    }
    findings
}

fn finding(file: &str, what: &str, instead: &str) -> Finding {
    Finding { file: file.to_owned(), line: 1, what: what.to_owned(), why: WHY, instead: instead.to_owned() }
}
