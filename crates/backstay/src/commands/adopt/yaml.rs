//! YAML as settings are written in it: a tree of texts. What could grow without end, aliases, is refused.

use yaml_rust2::parser::{Event, EventReceiver, Parser};

/// Levels of a file of settings; a person writes three.
const DEPTH_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Yaml {
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    pub fn get(&self, name: &str) -> Option<&Yaml> {
        self.entries().iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    pub fn entries(&self) -> &[(String, Yaml)] {
        if let Yaml::Map(entries) = self { entries } else { &[] }
    }

    pub fn items(&self) -> &[Yaml] {
        if let Yaml::List(items) = self { items } else { &[] }
    }

    /// A text that is not empty.
    pub fn text(&self) -> Option<&str> {
        if let Yaml::Text(text) = self { Some(text.as_str()).filter(|text| !text.is_empty()) } else { None }
    }
}

/// The first document; a file without one is an empty map.
pub fn parse(text: &str) -> Result<Yaml, String> {
    let mut tree = Tree::default();
    Parser::new_from_str(text).load(&mut tree, false).map_err(|error| error.to_string())?;
    match tree.problem {
        Some(problem) => Err(problem.to_owned()),
        None => Ok(tree.root.unwrap_or(Yaml::Map(Vec::new()))),
    }
}

#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    root: Option<Yaml>,
    problem: Option<&'static str>,
}

enum Open {
    List(Vec<Yaml>),
    /// With the key whose value comes next.
    Map(Vec<(String, Yaml)>, Option<String>),
}

impl EventReceiver for Tree {
    fn on_event(&mut self, event: Event) {
        match event {
            _ if self.problem.is_some() => {}
            Event::Alias(_) => self.problem = Some("aliases such as *name are not read; write it out"),
            Event::SequenceStart(..) => self.begin(Open::List(Vec::new())),
            Event::MappingStart(..) => self.begin(Open::Map(Vec::new(), None)),
            Event::Scalar(text, ..) => self.value(Yaml::Text(if text == "~" { String::new() } else { text })),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(items)) => self.value(Yaml::List(items)),
                Some(Open::Map(entries, _)) => self.value(Yaml::Map(entries)),
                None => {}
            },
            _ => {}
        }
    }
}

impl Tree {
    fn begin(&mut self, open: Open) {
        if self.open.len() >= DEPTH_MAX {
            self.problem = Some("it is nested deeper than settings are");
        } else {
            self.open.push(open);
        }
    }

    fn value(&mut self, value: Yaml) {
        match (self.open.last_mut(), value) {
            (None, value) => self.root = self.root.take().or(Some(value)),
            (Some(Open::List(items)), value) => items.push(value),
            (Some(Open::Map(entries, key)), value) => match (key.take(), value) {
                (Some(name), value) => entries.push((name, value)),
                (None, Yaml::Text(name)) => *key = Some(name),
                (None, _) => self.problem = Some("a name in it is no text"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_a_tree_of_texts() {
        let text = "# a comment\ndbs:\n  - path: /a.db # here\n    replicas:\n    - {type: s3, path: 'x y'}\nempty:\nlist: [1, \"2\"]\n";
        let tree = parse(text).expect("a tree");
        let db = &tree.get("dbs").expect("dbs").items()[0];
        assert_eq!(db.get("path").and_then(Yaml::text), Some("/a.db"));
        assert_eq!(db.get("replicas").expect("replicas").items()[0].get("path").and_then(Yaml::text), Some("x y"));
        assert_eq!(tree.get("empty").and_then(Yaml::text), None);
        assert_eq!(tree.get("list").expect("a list").items().len(), 2);
        assert_eq!(parse("").expect("nothing"), Yaml::Map(Vec::new()));
    }

    #[test]
    fn what_could_grow_without_end_is_refused() {
        assert!(parse("a: &a [x, x]\nb: [*a, *a]\n").expect_err("refused").contains("aliases"));
        assert!(parse(&"[".repeat(500)).is_err());
        assert!(parse(&format!("{}{}", "[".repeat(40), "]".repeat(40))).expect_err("refused").contains("nested"));
        assert!(parse("a: [").is_err());
        assert!(parse("? [a]\n: b\n").is_err());
    }
}
