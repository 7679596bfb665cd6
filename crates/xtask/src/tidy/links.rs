//! Relative links in Markdown lead somewhere.

use super::House;
use crate::finding::Finding;
use crate::sources::join;

pub struct Link<'a> {
    pub line: usize,
    pub target: &'a str,
}

impl<'a> Link<'a> {
    /// The file part, without the anchor.
    pub fn file(&self) -> &'a str {
        self.target.split('#').next().unwrap_or_default()
    }

    fn is_relative(&self) -> bool {
        !self.target.contains("://") && !self.target.starts_with("mailto:") && !self.file().is_empty()
    }
}

pub fn judge(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in house.tree.ending(".md") {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in links(text).into_iter().filter(Link::is_relative) {
            let climbs = link.file().starts_with('/');
            if climbs || !house.tree.exists(&join(folder, link.file())) {
                findings.push(Finding {
                    file: path.to_owned(),
                    line: link.line,
                    what: format!("`{}` is not there", link.target),
                    why: "a dead link is where a person in trouble stops reading",
                    instead: "link a tracked file, relative to this page".to_owned(),
                });
            }
        }
    }
    findings
}

/// Targets of `[text](target)` and `[name]: target`, outside code.
pub fn links(text: &str) -> Vec<Link<'_>> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (i, line) in text.lines().enumerate() {
        let mark = ["```", "~~~"].into_iter().find(|mark| line.trim_start().starts_with(mark));
        match (fence, mark) {
            (None, Some(_)) => fence = mark,
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, None) => found.extend(in_line(line).into_iter().map(|target| Link { line: i + 1, target })),
            _ => {}
        }
    }
    found
}

fn in_line(line: &str) -> Vec<&str> {
    if let Some((_, target)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
        return vec![target.trim()];
    }
    let mut found = Vec::new();
    for part in line.match_indices("](").map(|(at, _)| &line[at + 2..]) {
        let target = part.split([')', ' ']).next().unwrap_or_default();
        // A link shown as code is no link; a link whose text holds code is one.
        let shown = line.split('`').skip(1).step_by(2).any(|code| code.contains(&format!("]({target})")));
        if !shown {
            found.push(target.trim_matches(['<', '>']));
        }
    }
    found
}
