//! Facts: the spec page's examples are facts, canonical text is one text, and readers are exact.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../../../docs/formats/facts.md");

/// The JSON block under each second-level heading of the page.
fn examples() -> BTreeMap<&'static str, Value> {
    let sections = PAGE.split("\n## ").skip(1);
    let example = |section: &'static str| {
        let (name, rest) = section.split_once('\n').expect("a heading ends");
        let (_, block) = rest.split_once("```json\n").expect("a fact has an example");
        let (block, _) = block.split_once("```").expect("a block ends");
        (name, serde_json::from_str(block).expect("an example is JSON"))
    };
    sections.map(example).collect()
}

type Check = fn(&[u8]) -> Result<Vec<u8>, Corrupt>;

/// Parses bytes as a fact and writes it again.
fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Vec<u8>, Corrupt> {
    parse::<T>("a fact", bytes).map(|facts| encode(&facts))
}

const TYPES: [(&str, Check); 11] = [
    ("Conf", again::<Conf>),
    ("Enrolment", again::<Enrolment>),
    ("Branch", again::<Branch>),
    ("Manifest", again::<Manifest>),
    ("SealedManifest", again::<SealedManifest>),
    ("Log", again::<Log>),
    ("RollUp", |bytes| RollUp::parse(bytes).map(|facts| encode(&facts))),
    ("Mark", again::<Mark>),
    ("Audit", again::<Audit>),
    ("Prune", again::<Prune>),
    ("Lease", again::<Lease>),
];

const OPTIONAL: [(&str, &str); 12] = [
    ("Conf", "older"),
    ("Conf", "recipients"),
    ("Branch", "parent"),
    ("Manifest", "label"),
    ("Manifest", "keep"),
    ("Manifest", "following"),
    ("SealedManifest", "opening"),
    ("Log", "next"),
    ("Log", "leaves"),
    ("Log", "shared"),
    ("RollUp", "generation"),
    ("Mark", "releases"),
];

fn canonical(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a value is JSON")
}

#[test]
fn every_fact_has_an_example_and_every_example_is_a_fact() {
    let examples = examples();
    let names = |types: &[(&'static str, Check)]| types.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let mut listed = names(&TYPES);
    listed.sort_unstable();
    assert_eq!(examples.keys().copied().collect::<Vec<_>>(), listed);
    for (name, again) in TYPES {
        let bytes = canonical(&examples[name]);
        assert_eq!(
            again(&bytes).map(|b| String::from_utf8(b).unwrap()),
            Ok(String::from_utf8(bytes).unwrap()),
            "{name}"
        );
    }
}

#[test]
fn keys_come_sorted_whatever_the_order_of_the_fields() {
    let text = String::from_utf8(encode(&json!({"b": 1, "a": {"d": 1, "c": 2}}))).unwrap();
    assert_eq!(text, r#"{"a":{"c":2,"d":1},"b":1}"#);
}

#[test]
fn unknown_keys_are_ignored_missing_and_ill_typed_ones_are_not() {
    let examples = examples();
    for (name, again) in TYPES {
        let example = examples[name].as_object().expect("facts are objects");
        let mut more = example.clone();
        more.insert("later".to_owned(), json!([1, {}]));
        assert_eq!(again(&canonical(&more.into())), Ok(canonical(&examples[name])), "{name}");
        for key in example.keys() {
            let mut fewer = example.clone();
            fewer.remove(key);
            assert_eq!(
                again(&canonical(&fewer.into())).is_ok(),
                OPTIONAL.contains(&(name, key)),
                "{name} without {key}"
            );
            let free = matches!((name, key.as_str()), ("Mark", "evidence") | ("SealedManifest", "engine"));
            let mut wrong = example.clone();
            wrong.insert(key.clone(), json!([-1.5]));
            assert_eq!(again(&canonical(&wrong.into())).is_ok(), free, "{name} with a wrong {key}");
        }
    }
}

#[test]
fn every_cut_is_an_error_and_so_is_a_key_twice() {
    let examples = examples();
    for (name, again) in TYPES {
        let bytes = canonical(&examples[name]);
        for cut in 0..bytes.len() {
            assert!(again(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
        let first = examples[name].as_object().and_then(|o| o.iter().next()).expect("facts have keys");
        let twice = format!("{{\"{}\":{},{}", first.0, first.1, std::str::from_utf8(&bytes[1..]).unwrap());
        assert!(again(twice.as_bytes()).is_err(), "{name} with {} twice", first.0);
    }
}

#[test]
fn a_roll_up_that_no_writer_makes_is_refused() {
    let example = examples().remove("RollUp").expect("an example");
    let one = |change: fn(&mut RollUp)| {
        let mut facts: RollUp = parse("a roll-up", &canonical(&example)).expect("facts");
        change(&mut facts);
        RollUp::parse(&encode(&facts)).is_ok()
    };
    assert!(one(|_| {}));
    let of_one_slot = |r: &mut RollUp| (r.first, r.ends[0].sequence) = (r.last, r.last);
    assert!(one(of_one_slot), "sealed again it may be of one slot");
    let wrong: [fn(&mut RollUp); 6] = [
        |r| (r.first, r.generation) = (r.last, Generation::FIRST),
        |r| (r.last, r.generation) = (r.first, Generation::FIRST),
        |r| (r.first, r.last) = (r.last, r.first),
        |r| r.ends.clear(),
        |r| r.ends[0].sequence = Sequence::new(r.last.get() + 1),
        |r| r.ends[0].sequence = Sequence::new(r.first.get() - 1),
    ];
    assert!(wrong.into_iter().all(|change| !one(change)));
}

#[test]
fn endless_facts_and_endless_nesting_are_refused() {
    let long = vec![b' '; layout::FACTS_MAX + 1];
    assert!(matches!(parse::<Lease>("a lease", &long), Err(Corrupt::TooLong { .. })));
    let deep = "[".repeat(layout::FACTS_MAX);
    assert!(matches!(parse::<Value>("a value", deep.as_bytes()), Err(Corrupt::Json { .. })));
}

#[test]
fn a_stream_that_cannot_exist_is_refused() {
    let stream = |unit, length, levels| Stream { name: "main".to_owned(), unit, length: ByteLen::new(length), levels };
    let shape = |unit, length, levels| stream(unit, length, levels).shape().map(|(unit, units)| (unit.get(), units));
    assert_eq!(shape(4096, 0, 0), Ok((4096, 0)));
    assert_eq!(shape(4096, 1, 0), Ok((4096, 1)));
    assert_eq!(shape(65_536, 512 * 65_536, 0), Ok((65_536, 512)));
    assert_eq!(shape(65_536, 512 * 65_536 + 1, 1), Ok((65_536, 513)));
    for (unit, length, levels) in [(512, 1, 0), (0, 1, 0), (4097, 1, 0), (4096, 1, 1), (4096, u64::MAX, 5)] {
        assert!(shape(unit, length, levels).is_err(), "{unit} {length} {levels}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}") {
        for (_, again) in TYPES {
            let _ = again(text.as_bytes());
        }
    }
}

/// Where one source leaves there are others that go on, and each leaves once.
#[test]
fn a_source_leaves_once_and_where_its_stream_ends() {
    let leaving: Value = examples()["Log"].clone();
    let parsed = |change: &dyn Fn(&mut Value)| {
        let mut facts = leaving.clone();
        change(&mut facts);
        Log::parse(facts.to_string().as_bytes())
    };
    let whole = parsed(&|_| ()).expect("a legal end");
    let [shop, crm] = ["shop", "crm"].map(|name| name.parse::<SourceName>().expect("a name"));
    assert_eq!((whole.onward().of(&shop), whole.onward().of(&crm)), (whole.next, Some(whole.leaves[0].next)));
    assert_eq!((whole.is_left_by_others(&shop), whole.is_left_by_others(&crm)), (true, false));
    assert!(parsed(&|facts| drop(facts.as_object_mut().expect("an object").remove("next"))).is_err());
    let twice = parsed(&|facts| {
        let again = facts["leaves"][0].clone();
        facts["leaves"].as_array_mut().expect("a list").push(again);
    });
    assert!(twice.is_err(), "{twice:?}");
    let plain = parsed(&|facts| drop(facts.as_object_mut().expect("an object").remove("leaves"))).expect("as ever");
    assert!(!plain.is_left_by_others(&shop) && plain.onward().of(&crm) == plain.next);
    // What leads to itself has no end.
    assert!(parsed(&|facts| facts["next"] = facts["stream"].clone()).is_err());
    assert!(parsed(&|facts| facts["leaves"][0]["next"] = facts["stream"].clone()).is_err());
}
