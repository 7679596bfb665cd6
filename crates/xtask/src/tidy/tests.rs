//! Each rule against this checkout, and against a small tree that must break it.

use super::*;

fn house(files: &[(&str, &str)]) -> House {
    House::new(Tree::of(files))
}

fn checkout() -> House {
    let root = crate::tree::root().expect("tests run in a checkout");
    House::new(Tree::gather(&root).expect("git lists the checkout"))
}

/// What a rule says of a tree: one `file:line what` per finding.
fn said(judge: fn(&House) -> Vec<Finding>, files: &[(&str, &str)]) -> Vec<String> {
    judge(&house(files)).into_iter().map(|f| format!("{}:{} {}", f.file, f.line, f.what)).collect()
}

#[test]
fn this_checkout_keeps_every_rule() {
    let house = checkout();
    let findings: Vec<_> = judge(&house).into_iter().map(|(rule, f)| format!("[{rule}] {f}")).collect();
    assert!(findings.is_empty(), "{}\n\n{} findings", findings.join("\n"), findings.len());
}

#[test]
fn a_walk_that_finds_nothing_would_not_pass_for_tidy() {
    let house = checkout();
    assert!(house.tree.crates().len() >= 8);
    let this = "xtask::tidy::tests::a_walk_that_finds_nothing_would_not_pass_for_tidy";
    assert_eq!(house.sources.tests.get(this), Some(&false));
    assert!(house.sources.files["crates/xtask/src/tidy/tests.rs"].test);
    assert!(house.sources.files["crates/xtask/src/main.rs"].source.functions.iter().any(|f| f.name == "main"));
}

#[test]
fn a_finding_says_where_what_why_and_what_to_do_instead() {
    let file = "crates/a/src/lib.rs".to_owned();
    let finding = Finding { file, line: 7, what: "`x`".to_owned(), why: "because", instead: "do y".to_owned() };
    assert_eq!(finding.to_string(), "crates/a/src/lib.rs:7: `x`\n    why: because\n    instead: do y");
}

fn manifest(name: &str, dependencies: &str) -> String {
    format!("[package]\nname = \"{name}\"\n\n[lints]\nworkspace = true\n\n{dependencies}\n")
}

#[test]
fn an_edge_against_the_stream_is_a_finding() {
    let cases = [
        ("backstay-model", "[dependencies]\nbackstay-format = { workspace = true }", Some("`backstay-format`")),
        ("backstay-format", "[dependencies]\nbackstay-model = { workspace = true }", None),
        ("backstay-format", "[dev-dependencies]\nbackstay-testkit = { workspace = true }", None),
        ("backstay-store", "[build-dependencies]\nbackstay-sqlite = { path = \"../x\" }", Some("`backstay-sqlite`")),
        ("backstay-ops", "[target.'cfg(unix)'.dependencies]\nxtask = \"0\"", Some("`xtask`")),
        ("backstay-ops", "[dependencies]\nage = \"0.12\"", Some("`age`")),
        ("backstay-store", "[dependencies]\nage = \"0.12\"", None),
        ("backstay-model", "[dependencies]\nhidden = { package = \"rusqlite\", version = \"1\" }", Some("`rusqlite`")),
        ("backstay-model", "[dependencies]\nshort = { workspace = true }", Some("`clap`")),
        ("backstay-testkit", "[dependencies]\nobject_store = \"0.14\"", None),
        ("backstay-extra", "", Some("not in the edge table")),
        ("backstay-ops", "[dependencies]\nbackstay-sqlite = { workspace = true, features = [\"sim\"] }", Some("`sim`")),
        ("backstay-ops", "[features]\ndefault = [\"backstay-sqlite/sim\"]", Some("`sim`")),
        ("backstay-ops", "[features]\nsim = [\"backstay-sqlite/sim\"]", None),
        ("backstay-ops", "[dev-dependencies]\nbackstay-ops = { path = \".\", features = [\"sim\"] }", None),
    ];
    for (name, dependencies, expected) in cases {
        let path = format!("crates/{name}/Cargo.toml");
        let text = manifest(name, dependencies);
        let workspace = "[workspace.dependencies]\nshort = { package = \"clap\", version = \"4\" }";
        let found = said(edges::judge, &[(&path, &text), ("Cargo.toml", workspace)]);
        match expected {
            None => assert_eq!(found, [""; 0], "{name} {dependencies}"),
            Some(word) => {
                assert!(found.len() == 1 && found[0].contains(word), "{name} {dependencies}: {found:?}");
            }
        }
    }
}

#[test]
fn a_crate_without_lints_or_under_another_name_is_a_finding() {
    let text = "[package]\nname = \"backstay-model\"\n";
    let found = said(edges::judge, &[("crates/model/Cargo.toml", text)]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("lives in folder `model`"));
    assert!(found[1].contains("does not take the workspace's lints"));
}

#[test]
fn a_dependency_nobody_argued_for_is_a_finding() {
    let manifest = "[workspace.dependencies]\nbackstay-model = { path = \"x\" }\nbytes = \"1\"\nserde = \"1\"\n";
    let own = "[dev-dependencies]\nserde = { workspace = true }\nrand = \"1\"\n";
    let files = [("Cargo.toml", manifest), ("crates/a/Cargo.toml", own), ("deny.toml", "# serde: facts\n# bytes:\n")];
    let expected = ["Cargo.toml:3 `bytes`", "crates/a/Cargo.toml:3 `rand`"];
    assert_eq!(said(edges::reasons, &files), expected.map(|at| format!("{at} has no reason in deny.toml")));
}

/// A function of exactly `lines` lines, fences included.
fn function(head: &str, line: &str, lines: usize) -> String {
    format!("{head} fn long() {{\n{}}}\n", format!("{line}\n").repeat(lines - 2))
}

fn size_of(text: &str) -> Vec<String> {
    said(size::judge, &[("crates/a/src/lib.rs", text)])
}

#[test]
fn seventy_lines_pass_and_seventy_one_do_not() {
    assert_eq!(size_of(&function("", "work();", 70)), [""; 0]);
    assert_eq!(size_of(&function("", "work();", 71)), ["crates/a/src/lib.rs:1 `long` is 71 lines, over 70"]);
    let method = format!("impl A {{\n{}}}", function("pub", "work();", 71));
    assert_eq!(size_of(&method), ["crates/a/src/lib.rs:2 `long` is 71 lines, over 70"]);
}

#[test]
fn what_looks_like_code_and_what_is_not_counted() {
    let braces_in_text = function("", "work(\"}\", '{', r#\"fn x() {\"#); // }", 71);
    assert_eq!(size_of(&braces_in_text), ["crates/a/src/lib.rs:1 `long` is 71 lines, over 70"]);
    assert_eq!(size_of(&function("", "// a reason", 90)), [""; 0]);
    assert_eq!(size_of(&function("#[test]", "work();", 90)), [""; 0]);
    assert_eq!(size_of(&format!("#[cfg(test)]\nmod tests {{\n{}}}", function("", "work();", 90))), [""; 0]);
    assert!(!size_of(&format!("#[cfg(not(test))]\nmod live {{\n{}}}", function("", "work();", 90))).is_empty());
    let arms = format!("fn long(n: u8) {{\nmatch n {{\n{}_ => c(),\n}}\n}}", "1 => a(),\n".repeat(90));
    assert_eq!(size_of(&arms), [""; 0]);
    let blocks = format!("fn long(n: u8) {{\nmatch n {{\n{}_ => c(),\n}}\n}}", "1 => {\na()\n}\n".repeat(40));
    assert_eq!(size_of(&blocks).len(), 1);
    let table = format!("fn long() {{\nconst T: &[u8] = &[\n{}];\n}}", "1,\n".repeat(90));
    assert_eq!(size_of(&table), [""; 0]);
    let string = format!("fn long() {{\nwork(\"{}\");\n}}", "text\n".repeat(90));
    assert_eq!(size_of(&string).len(), 1);
}

#[test]
fn only_a_reasoned_expectation_excuses_a_long_function() {
    let excused = "#[expect(clippy::too_many_lines, reason = \"one table\")]\n";
    assert_eq!(size_of(&function(excused, "work();", 90)), [""; 0]);
    assert_eq!(size_of(&function("#[allow(clippy::too_many_lines)]\n", "work();", 90)).len(), 1);
}

#[test]
fn a_long_file_is_a_finding_unless_it_is_long_with_tests_or_tables() {
    let lines = "fn short() {}\n".repeat(701);
    assert_eq!(size_of(&lines), ["crates/a/src/lib.rs:701 701 lines without tests and tables, over 700"]);
    assert_eq!(size_of(&format!("#[cfg(test)]\nmod tests {{\n{lines}}}")), [""; 0]);
    assert_eq!(size_of(&format!("const T: &[u8] = &[\n{}];\n", "1,\n".repeat(701))), [""; 0]);
    let beside = [("crates/a/src/lib.rs", "#[cfg(test)]\nmod tests;\n"), ("crates/a/src/tests.rs", lines.as_str())];
    assert_eq!(said(size::judge, &beside), [""; 0]);
    assert_eq!(said(size::judge, &[("crates/a/tests/big.rs", &lines)]), [""; 0]);
}

#[test]
fn a_source_no_mod_line_reaches_is_a_finding() {
    let files = [
        ("crates/a/src/lib.rs", "mod b;\nmod c { mod d; }\n#[path = \"odd_name.rs\"] mod e;"),
        ("crates/a/src/b.rs", "mod f;"),
        ("crates/a/src/b/f.rs", ""),
        ("crates/a/src/c/d/mod.rs", "mod g;"),
        ("crates/a/src/c/d/g.rs", ""),
        ("crates/a/src/odd_name.rs", ""),
        ("crates/a/src/f.rs", ""),
        ("crates/a/tests/whole.rs", "mod common;"),
        ("crates/a/tests/common/mod.rs", ""),
        ("crates/a/tests/corpus/x.rs", ""),
    ];
    assert_eq!(said(dead::sources, &files), ["crates/a/src/f.rs:1 no `mod` line reaches this file"]);
}

#[test]
fn a_page_nobody_links_is_a_finding() {
    let files = [
        ("README.md", "See [docs](docs/README.md)."),
        ("docs/README.md", "[a](a.md#part) and `[b](b.md)`"),
        ("docs/a.md", "[c]: formats/c.md"),
        ("docs/b.md", "```\n[x](x.md)\n```"),
        ("docs/formats/c.md", ""),
        ("docs/x.md", "[x](x.md)"),
    ];
    assert_eq!(said(dead::pages, &files), ["docs/b.md:1 no page leads here", "docs/x.md:1 no page leads here"]);
}

#[test]
fn a_link_to_nowhere_is_a_finding() {
    let page = "[here](#part) [web](https://example.org/x) [mail](mailto:a@example.org)\n\
                [folder](sub) [up](../README.md) [gone](gone.md#x)\n\
                ```\n[in code](nowhere.md)\n```\n[`code`](missing.rs)\n[absolute](/etc/passwd)\n";
    let files = [("docs/a.md", page), ("docs/sub/b.md", ""), ("README.md", "")];
    let expected = ["docs/a.md:2 `gone.md#x`", "docs/a.md:6 `missing.rs`", "docs/a.md:7 `/etc/passwd`"];
    assert_eq!(said(links::judge, &files), expected.map(|at| format!("{at} is not there")));
}

#[test]
fn a_crate_whose_first_line_is_not_its_rule_is_a_finding() {
    let map =
        "| crate | rule | holds |\n| --- | --- | --- |\n| `a` | Pure: no I/O. | words |\n| `b` | Bytes only. | x |";
    let files = [
        ("ARCHITECTURE.md", map),
        ("test", "a path shorter than the folder of crates"),
        ("crates/a/Cargo.toml", ""),
        ("crates/a/fixtures/inner/Cargo.toml", ""),
        ("crates/a/src/lib.rs", "//! Pure: no I/O.\n"),
        ("crates/b/Cargo.toml", ""),
        ("crates/b/src/main.rs", "//! Bytes, mostly.\n"),
        ("crates/c/Cargo.toml", ""),
        ("crates/c/src/lib.rs", ""),
    ];
    let expected = [
        "crates/b/src/main.rs:1 the first line says `//! Bytes, mostly.`",
        "ARCHITECTURE.md:1 crate `c` is not in the code map",
    ];
    assert_eq!(said(crate_docs::judge, &files), expected);
}

#[test]
fn reminders_and_prints_are_findings_outside_tests() {
    let reminder = concat!("// FIX", "ME later\nfn a() { select! { x => println!(\"{x}\") } }\n");
    let tested = "#[cfg(test)]\nmod tests {\nfn a() { println!(); dbg!(1); }\n}\n";
    let files = [
        ("crates/backstay-ops/src/lib.rs", reminder),
        ("crates/backstay-store/src/lib.rs", tested),
        ("crates/backstay/src/main.rs", "fn main() { println!(); dbg!(1) }"),
    ];
    let found = said(leftovers::code, &files);
    let expected = [
        concat!("crates/backstay-ops/src/lib.rs:1 `FIX", "ME`"),
        "crates/backstay-ops/src/lib.rs:2 `println!`",
        "crates/backstay-store/src/lib.rs:3 `dbg!`",
        "crates/backstay/src/main.rs:1 `dbg!`",
    ];
    let mut sorted = found.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
}

#[test]
fn places_of_one_machine_are_findings() {
    let files = [
        ("docs/a.md", concat!("cd /ro", "ot/shop\ncd /srv/shop\nsee a/wo", "rk/b\n\"/ho", "me/me\"")),
        ("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nsource = \"git+x\""),
    ];
    let found: Vec<_> = said(leftovers::places, &files);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("Cargo.lock:2 "));
    assert!(found[1].starts_with("docs/a.md:1 ") && found[2].starts_with("docs/a.md:4 "));
}

const TESTED: &str = "#[cfg(test)]\nmod tests {\n#[test]\nfn plain() {}\n#[tokio::test]\nasync fn waits() {}\n\
    #[test]\n#[ignore = \"slow\"]\nfn sleeps() {}\nfn no_test() {}\n\
    proptest! {\n#[test]\nfn any_input(n in 0u8..9) {}\n#[test]\n#[ignore]\nfn left_out(n in 0u8..9) {}\n}\n}\n";

fn promised(rows: &str) -> Vec<String> {
    let rest = (2..=10).map(|n| format!("| {n} | p | *not yet* |\n")).collect::<String>();
    let page = format!("| # | promise | tests |\n| --- | --- | --- |\n| 1 | p | {rows} |\n{rest}");
    said(promises::judge, &[("docs/promises.md", &page), ("crates/back-stay/src/lib.rs", TESTED)])
}

#[test]
fn a_promise_names_tests_that_exist_and_run() {
    let names = "`back_stay::tests::plain`, `back_stay::tests::waits`, `back_stay::tests::any_input`";
    assert_eq!(promised(names), [""; 0]);
    assert_eq!(promised("*not yet*"), [""; 0]);
}

#[test]
fn a_promise_with_a_missing_ignored_or_unnamed_test_is_a_finding() {
    let cases = [
        ("`back_stay::tests::gone`", "does not exist"),
        ("`back_stay::plain`", "does not exist"),
        ("`back_stay::tests::no_test`", "does not exist"),
        ("`back_stay::tests::sleeps`", "is ignored"),
        ("`back_stay::tests::left_out`", "is ignored"),
        ("`plain`", "is not a test's name"),
        ("soon", "a promise without a test"),
    ];
    for (row, expected) in cases {
        let found = promised(row);
        assert!(found.len() == 1 && found[0].contains(expected), "{row}: {found:?}");
    }
    assert_eq!(said(promises::judge, &[("docs/promises.md", "nothing")]).len(), 1);
    assert_eq!(said(promises::judge, &[]).len(), 1);
}

#[test]
fn a_format_page_nobody_compares_and_constants_without_a_page_are_findings() {
    let files = [
        ("docs/formats/README.md", ""),
        ("docs/formats/a.md", ""),
        ("docs/formats/b.md", ""),
        ("crates/f/src/a/layout.rs", "//! As `docs/formats/a.md` prints it.\nmod tests;"),
        ("crates/f/src/a/layout/tests.rs", "const PAGE: &str = include_str!(\"../../docs/formats/a.md\");"),
        ("crates/f/src/c/layout.rs", "//! Offsets."),
    ];
    let expected =
        ["docs/formats/b.md:1 no test reads this page", "crates/f/src/c/layout.rs:1 these constants name no page"];
    assert_eq!(said(formats::judge, &files), expected);
}

#[test]
fn a_file_that_is_not_rust_is_a_finding() {
    let found = said(|house| house.sources.unreadable.clone(), &[("crates/a/src/lib.rs", "\nfn (")]);
    assert!(found.len() == 1 && found[0].starts_with("crates/a/src/lib.rs:2 not Rust"), "{found:?}");
}
