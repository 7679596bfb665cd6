//! The spec pages and this file say the same: structure by structure, field by field, both ways.
use super::*;
use std::collections::{BTreeMap, BTreeSet};

const LAYOUT: &str = include_str!("../layout.rs");
const PAGES: [&str; 5] = [
    include_str!("../../../../docs/formats/object.md"),
    include_str!("../../../../docs/formats/manifest.md"),
    include_str!("../../../../docs/formats/tree.md"),
    include_str!("../../../../docs/formats/log.md"),
    include_str!("../../../../docs/formats/bundle.md"),
];

type Rows = Vec<(String, usize, usize)>;

fn in_code() -> BTreeMap<String, (usize, Rows)> {
    let all = [
        ("header", header::LEN, header::FIELDS),
        ("signature", signature::LEN, signature::FIELDS),
        ("index", index::LEN, index::FIELDS),
        ("trailer", trailer::LEN, trailer::FIELDS),
        ("table", table::LEN, table::FIELDS),
        ("reference", reference::LEN, reference::FIELDS),
        ("leaf", leaf::LEN, leaf::FIELDS),
        ("run", run::LEN, run::FIELDS),
        ("node", node::LEN, node::FIELDS),
        ("child", child::LEN, child::FIELDS),
        ("directory", directory::LEN, directory::FIELDS),
        ("unit", unit::LEN, unit::FIELDS),
        ("log", log::LEN, log::FIELDS),
        ("commit", commit::LEN, commit::FIELDS),
        ("item", item::LEN, item::FIELDS),
    ];
    let rows = |fields: &[Field]| {
        fields.iter().map(|f| (f.name.trim_end_matches('_').to_lowercase(), f.offset, f.len)).collect()
    };
    all.into_iter().map(|(name, len, fields)| (name.to_owned(), (len, rows(fields)))).collect()
}

fn constants_in_code() -> BTreeMap<String, String> {
    let hex = |bytes: [u8; 8]| bytes.map(|b| format!("{b:02x}")).join(" ");
    let all = [
        ("MAGIC", hex(MAGIC)),
        ("END_MAGIC", hex(END_MAGIC)),
        ("VERSION", VERSION.to_string()),
        ("FLAG_SEALED", FLAG_SEALED.to_string()),
        ("FLAG_SIGNED", FLAG_SIGNED.to_string()),
        ("FAN_OUT", FAN_OUT.to_string()),
        ("LEVELS_MAX", LEVELS_MAX.to_string()),
        ("WRAP_MAX", WRAP_MAX.to_string()),
        ("FACTS_MAX", FACTS_MAX.to_string()),
        ("TABLE_MAX", TABLE_MAX.to_string()),
        ("FRAME_RAW_MAX", FRAME_RAW_MAX.to_string()),
        ("FRAME_STORED_MAX", FRAME_STORED_MAX.to_string()),
        ("PACK_MAX", PACK_MAX.to_string()),
        ("BUNDLE_MAX", BUNDLE_MAX.to_string()),
        ("OBJECT_MAX", OBJECT_MAX.to_string()),
        ("FRAME_TARGET", FRAME_TARGET.to_string()),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The cells of the markdown table whose heading row begins at `lines`.
fn cells(line: &str) -> Vec<String> {
    line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn body<'a>(lines: impl Iterator<Item = &'a str>, heading: &str) -> Vec<Vec<String>> {
    let mut rows = lines.skip_while(|line| *line != heading).skip(1);
    assert!(rows.next().is_some_and(|line| line.starts_with("| ---")), "a rule stands under {heading:?}");
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn on_pages() -> BTreeMap<String, (usize, Rows)> {
    let mut found = BTreeMap::new();
    for page in PAGES {
        let lines: Vec<&str> = page.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some((name, rest)) =
                line.trim_start_matches('#').trim().strip_prefix("structure `").and_then(|l| l.split_once('`'))
            else {
                continue;
            };
            let len = rest.trim_start_matches(": ").trim_end_matches(" bytes").parse().expect("`: N bytes` follows");
            let section = lines[at + 1..].iter().copied().take_while(|line| !line.starts_with('#'));
            let rows = body(section, "| field | offset | size | meaning |")
                .into_iter()
                .map(|row| match row.as_slice() {
                    [field, offset, size, meaning] if !meaning.is_empty() => {
                        (field.clone(), offset.parse().expect("an offset"), size.parse().expect("a size"))
                    }
                    other => panic!("{name}: a row has four cells, not {other:?}"),
                })
                .collect();
            assert!(found.insert(name.to_owned(), (len, rows)).is_none(), "{name} is specified once");
        }
    }
    found
}

#[test]
fn every_structure_is_specified_and_every_specified_structure_exists() {
    let declared = LAYOUT.matches("\nstructure!(").count();
    assert_eq!(in_code().len(), declared, "a structure of layout.rs is missing from this test's list");
    assert_eq!(in_code(), on_pages());
}

#[test]
fn every_field_starts_where_the_one_before_ends() {
    for (name, (len, rows)) in in_code() {
        let end = rows.iter().fold(0, |next, (field, offset, size)| {
            assert_eq!(*offset, next, "{name}.{field}");
            offset + size
        });
        assert_eq!(end, len, "{name}");
    }
}

#[test]
fn every_constant_is_specified_and_every_specified_constant_exists() {
    let declared: BTreeSet<&str> = LAYOUT
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(':').map(|(name, _)| name))
        .collect();
    let listed = constants_in_code();
    assert_eq!(listed.keys().map(String::as_str).collect::<BTreeSet<_>>(), declared);
    let page = body(PAGES[0].lines(), "| constant | value | meaning |");
    let page: BTreeMap<String, String> = page.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(page, listed);
}
