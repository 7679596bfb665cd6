use super::*;

fn snapshot(n: u64, marks: &[MarkKind]) -> Snapshot {
    Snapshot {
        id: ObjectId::from_bytes([n as u8; 16]),
        sequence: Sequence::new(n),
        generation: Generation::FIRST,
        digest: Digest::ZERO,
        previous: Digest::ZERO,
        branch: BranchNo::FIRST,
        position: Position::new(n),
        taken: Moment::from_millis(n as i64 * 1000).expect("in range"),
        root: Digest::ZERO,
        length: ByteLen::new(0),
        added: ByteLen::new(0),
        quality: Quality::Whole,
        imported: false,
        made_of: None,
        label: n.is_multiple_of(2).then(|| "even".parse().expect("a label")),
        keep: None,
        marks: marks.to_vec(),
    }
}

fn history() -> Vec<Snapshot> {
    use MarkKind::*;
    vec![snapshot(1, &[Proven]), snapshot(2, &[]), snapshot(3, &[Proven, Quarantined]), snapshot(4, &[])]
}

fn chosen(target: Target) -> Result<u64, NoPoint> {
    choose(&history(), &target).map(|s| s.sequence.get())
}

fn at(ms: i64) -> Moment {
    Moment::from_millis(ms).expect("in range")
}

#[test]
fn targets_name_what_people_mean() {
    assert_eq!(chosen(Target::Latest), Ok(4));
    assert_eq!(chosen(Target::LatestProven), Ok(1), "a quarantined snapshot is not proven");
    assert_eq!(chosen(Target::Label("even".parse().expect("a label"))), Ok(4));
    assert_eq!(chosen(Target::Id("0202".into())), Ok(2));
    assert_eq!(chosen(Target::Id("0303".into())), Ok(3), "a quarantined one may be named");
}

#[test]
fn a_time_takes_the_newest_point_at_or_before_it() {
    assert_eq!(chosen(Target::At(at(2000))), Ok(2));
    assert_eq!(chosen(Target::At(at(3999))), Ok(2), "the quarantined third is passed over");
    assert_eq!(chosen(Target::At(at(999))), Err(NoPoint::BeforeFirst { at: at(999), oldest: at(1000) }));
}

#[test]
fn unknown_and_ambiguous_names_are_refused() {
    assert_eq!(chosen(Target::Id("ff".into())), Err(NoPoint::UnknownId { id: "ff".into() }));
    assert_eq!(chosen(Target::Id("0".into())), Err(NoPoint::AmbiguousId { id: "0".into(), count: 4 }));
    assert_eq!(chosen(Target::Id(String::new())), Err(NoPoint::AmbiguousId { id: String::new(), count: 4 }));
    assert_eq!(choose(&[], &Target::Latest), Err(NoPoint::Empty));
}

#[test]
fn rival_tips_are_named_not_guessed() {
    let mut fork = snapshot(4, &[]);
    fork.id = ObjectId::from_bytes([9; 16]);
    let mut all = history();
    all.push(fork.clone());
    assert!(matches!(choose(&all, &Target::Latest), Err(NoPoint::Rivals { .. })));
    assert_eq!(choose(&all, &Target::Id(fork.id.to_string())).map(|s| s.id), Ok(fork.id));
}

#[test]
fn old_copies_answer_to_a_time_and_never_to_latest() {
    let mut snapshots = history();
    let imported =
        |n: u64, marks: &[MarkKind]| Snapshot { imported: true, branch: BranchNo::new(1), ..snapshot(n, marks) };
    // Brought in last, and the copy was made after the newest backup.
    snapshots.push(imported(9, &[MarkKind::Proven]));
    let chosen = |target: Target| choose(&snapshots, &target).map(|s| s.sequence.get());
    assert_eq!((chosen(Target::Latest), chosen(Target::LatestProven)), (Ok(4), Ok(1)));
    assert_eq!((chosen(Target::At(at(9000))), chosen(Target::At(at(8999)))), (Ok(9), Ok(4)));
    assert_eq!(chosen(Target::Id("0909".into())), Ok(9));
    let only = [imported(1, &[]), imported(2, &[])];
    assert_eq!(choose(&only, &Target::Latest).map(|s| s.sequence.get()), Ok(2), "where there is nothing else");
}
