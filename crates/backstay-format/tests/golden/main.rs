//! The bytes of version 1 as they were when it was fixed. No test writes these files: a build that
//! writes other bytes, or cannot read these, has broken every repository there is.

mod samples;

use backstay_format::facts::{
    self, CondemnedSnapshot, Conf, Enrolment, Lease, Log, Manifest, Opening, Prune, RollUp, Stream,
};
use backstay_format::log;
use backstay_format::object::Object;
use backstay_format::table::Table;
use backstay_format::tree::{Leaf, Node};
use backstay_format::{Header, directory};
use std::collections::BTreeSet;
use std::path::Path;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(samples::FOLDER).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn this_build_writes_the_bytes_of_version_1() {
    for (name, bytes) in samples::all() {
        assert_eq!(bytes, golden(name), "{name}");
    }
}

#[test]
fn every_golden_file_is_compared() {
    let there = std::fs::read_dir(samples::FOLDER).expect("the golden folder is checked in");
    let there: BTreeSet<String> =
        there.map(|e| e.expect("a readable folder").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(there, samples::all().into_iter().map(|(name, _)| name.to_owned()).collect());
}

#[test]
fn this_build_reads_the_bytes_of_version_1() {
    assert_eq!(Leaf::parse(&golden("leaf.bin")), Ok(samples::leaf()));
    assert_eq!(Node::parse(&golden("node.bin")), Ok(samples::node()));
    assert_eq!(Table::parse(&golden("table.bin")), Ok(samples::table()));
    assert_eq!(directory::parse(&golden("directory.bin")), Ok(samples::directory()));
    assert_eq!(backstay_format::bundle::parse(&golden("bundle.bin")).as_deref(), Ok(&samples::bundle()[..]));
    assert_eq!(facts::parse::<Manifest>("facts", &golden("facts.bin")), Ok(samples::manifest_facts()));
    assert_eq!(facts::parse::<Stream>("facts", &golden("stream.bin")), Ok(samples::stream()));
    let opening = facts::parse::<Opening>("facts", &golden("opening.bin")).expect("an opening");
    assert_eq!(opening, samples::opening());
    let mut page = [7; 20];
    assert_eq!(opening.pages[0].fill(&mut page), Some(()));
    assert_eq!(&page, b"SQLite format 3\0\x10\0\0\0");
    assert_eq!(facts::parse::<Log>("facts", &golden("log-facts.bin")), Ok(samples::log_facts()));
    assert_eq!(RollUp::parse(&golden("roll-up-facts.bin")), Ok(samples::roll_up_facts()));
    assert_eq!(log::parse(&golden("records.bin")), Ok(samples::records()));
    assert!(Header::parse(&golden("header.bin")).is_ok());
    let manifest = golden("manifest.bin");
    let object = Object::parse(&manifest).expect("a whole manifest");
    assert_eq!(object.table, golden("table.bin"));
    assert_eq!(object.front.facts, golden("facts.bin"));
    assert_eq!(
        object.frames.iter().map(|f| object.frame(f)).collect::<Vec<_>>(),
        [Ok(&b"sealed facts"[..]), Ok(&b"sealed root"[..])]
    );
    let facts = |name: &str| Object::parse(&golden(name)).expect("a whole record").front.facts.to_vec();
    assert_eq!(facts::parse::<Prune>("facts", &facts("prune.bin")), Ok(samples::prune_facts()));
    assert_eq!(Log::parse(&golden("leaving-facts.bin")), Ok(samples::leaving_facts()));
    let of_logs = facts::parse::<Prune>("facts", &golden("prune-of-logs.bin"));
    assert_eq!(of_logs, Ok(samples::prune_of_logs()));
    assert_eq!(facts::parse::<Lease>("facts", &facts("lease.bin")), Ok(samples::lease_facts()));
    assert_eq!(facts::parse::<Conf>("facts", &golden("conf-facts.bin")), Ok(samples::conf_facts()));
    assert_eq!(facts::parse::<Conf>("facts", &golden("unsealed-conf-facts.bin")), Ok(samples::unsealed_conf_facts()));
    let rewritten = facts::parse::<Manifest>("facts", &golden("rewritten-facts.bin"));
    assert_eq!(rewritten, Ok(samples::rewritten_facts()));
    assert_eq!(rewritten.map(|facts| facts.rewritten.map(|r| r.bytes())), Ok(Some(Ok(b"\x00front\xff".to_vec()))));
    let later = facts::parse::<CondemnedSnapshot>("facts", &golden("later-generation.bin"));
    assert_eq!(later, Ok(samples::later_generation()));
    assert_eq!(Enrolment::parse(&golden("enrolment.bin")), Ok(samples::enrolment()));
    for name in ["conf.bin", "mark.bin", "pack.bin", "log.bin", "roll-up.bin"] {
        assert!(Object::parse(&golden(name)).is_ok(), "{name}");
    }
}
