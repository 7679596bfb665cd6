//! Cheap truths about every patch; whether a bug is caught is for `cargo xtask mutants`.

use super::*;

fn patch(test: &str) -> Patch {
    Patch { name: "p".to_owned(), test: test.to_owned(), why: "w".to_owned(), touches: String::new(), digest: 7 }
}

#[test]
fn every_planted_bug_still_applies_and_names_a_test_that_runs() {
    let root = crate::tree::root().expect("tests run in a checkout");
    let sources = Sources::read(&Tree::gather(&root).expect("git lists the checkout"));
    let mut wrong = Vec::new();
    for patch in patches(&root, &[]).expect("every patch has its header") {
        wrong.extend(applies(&root, &root, &patch.name).err());
        wrong.extend(patch.names_a_test(&sources).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_patch_without_its_header_is_refused() {
    let whole = "# test: package(a) & test(=b)\n# why: because\n--- a/x\n+++ b/x\n";
    let test = "package(a) & test(=b)".to_owned();
    let (why, touches) = ("because".to_owned(), "x".to_owned());
    let expected = Patch { name: "p".to_owned(), test, why, touches, digest: digest(whole) };
    assert_eq!(Patch::parse("p", whole), Ok(expected));
    for broken in ["# why: because", "# test: test(a)", "# test: \n# why: x", ""] {
        assert!(Patch::parse("p", broken).is_err(), "{broken}");
    }
}

#[test]
fn a_filter_must_name_a_package_and_a_test_that_runs() {
    let text = "#[cfg(test)]\nmod tests {\n#[test]\nfn plain() {}\n#[test]\n#[ignore]\nfn sleeps() {}\n}";
    let files = [("crates/back-stay/src/lib.rs", "mod seal;"), ("crates/back-stay/src/seal.rs", text)];
    let sources = Sources::read(&Tree::of(&files));
    let named = |filter: &str| patch(filter).names_a_test(&sources).is_ok();
    assert!(named("package(back-stay) & test(=seal::tests::plain)"));
    assert!(named("package(=back-stay) & test(plain)"));
    assert!(!named("package(back-stay) & test(=tests::pla)"));
    assert!(!named("package(back-stay) & (test(plain) | test(gone))"));
    assert!(!named("package(back-stay) & test(sleeps)"));
    assert!(!named("package(other) & test(plain)"));
    assert!(!named("test(plain)"));
    assert!(!named("package(back-stay)"));
}

#[test]
fn only_the_programs_whose_tests_are_meant_are_built() {
    let (unit, whole) = ("#[cfg(test)]\nmod tests {\n#[test]\nfn plain() {}\n}", "#[test]\nfn whole() {}");
    let files = [
        ("crates/a-b/src/lib.rs", "mod seal;\nmod both;"),
        ("crates/a-b/src/seal.rs", unit),
        ("crates/a-b/src/both.rs", ""),
        ("crates/a-b/tests/both.rs", "#[test]\nfn twice() {}"),
        ("crates/a-b/tests/crash.rs", whole),
        ("crates/tool/src/main.rs", unit),
    ];
    let sources = Sources::read(&Tree::of(&files));
    let programs = |filter: &str| patch(filter).programs(&sources).join(" ");
    assert_eq!(programs("package(=a-b) & test(=whole)"), "--test=crash");
    assert_eq!(programs("package(=a-b) & (test(=whole) | test(=seal::tests::plain))"), "--lib --test=crash");
    assert_eq!(programs("package(=tool) & test(=tests::plain)"), "--bins");
    assert_eq!(programs("package(=a-b) & test(=twice)"), "--lib --test=both", "either could be meant");
}

#[test]
fn only_a_red_test_kills() {
    assert_eq!(Outcome::of(Some(100)), Outcome::Killed);
    for code in [Some(0), Some(101), Some(4), Some(96), None] {
        assert_ne!(Outcome::of(code), Outcome::Killed, "{code:?}");
    }
}

#[test]
fn what_was_killed_is_passed_over_until_its_patch_changes_or_it_survives() {
    let known = |text: &str| Killed::parse(text).commit_of(&patch("x")).map(str::to_owned);
    assert_eq!(known("p 0000000000000007 abc\nq 0000000000000007 def\n"), Some("abc".to_owned()));
    assert_eq!(known("p 0000000000000008 abc\n"), None, "another patch by now");
    assert_eq!(known("p 0000000000000007 abc\np 0000000000000007 -\n"), None, "it survived since");
    assert_eq!(known("p 0000000000000007 abc\np 00000"), Some("abc".to_owned()), "a line that was cut says nothing");
    assert_ne!(digest("a"), digest("b"));
}
