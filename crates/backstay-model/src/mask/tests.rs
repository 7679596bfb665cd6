use super::*;

fn column(name: &str) -> ColumnFacts {
    ColumnFacts { name: name.to_owned(), ..ColumnFacts::default() }
}

fn refers(name: &str, table: &str, to: &str) -> ColumnFacts {
    ColumnFacts { references: vec![(table.to_owned(), to.to_owned())], ..column(name) }
}

fn table(name: &str, columns: Vec<ColumnFacts>) -> TableFacts {
    TableFacts { name: name.to_owned(), rows: RowsAre::Stored, columns }
}

fn shop() -> Vec<TableFacts> {
    let id = |name: &str| ColumnFacts { unique: true, not_null: true, ..column(name) };
    vec![
        table(
            "customer",
            vec![id("id"), ColumnFacts { unique: true, fold: Fold::Case, ..column("email") }, column("name")],
        ),
        table("orders", vec![id("id"), refers("customer", "Customer", "ID"), refers("mail", "customer", "email")]),
        table("line", vec![refers("buyer", "orders", "customer"), column("text")]),
    ]
}

fn profile(strict: bool, rules: &[(&str, &str, &str)]) -> Profile {
    let rule = |(table, column, rule): &(&str, &str, &str)| {
        ((*table).to_owned(), (*column).to_owned(), (*rule != "?").then(|| rule.parse().expect("a rule")))
    };
    Profile { strict, empty: Vec::new(), rules: rules.iter().map(rule).collect() }
}

fn of(plan: &MaskPlan, table: &str, column: &str) -> ColumnPlan {
    let table = plan.tables.iter().find(|found| found.name == table).expect("a table");
    table.columns.iter().find(|found| found.name == column).expect("a column").clone()
}

#[test]
fn a_reference_follows_what_it_refers_to_through_any_number_of_tables() {
    let plan = decide(&profile(false, &[("customer", "id", "hash"), ("CUSTOMER", "Email", "fake:email")]), &shop());
    let plan = plan.expect("a plan");
    for (table, name) in [("orders", "customer"), ("line", "buyer")] {
        let found = of(&plan, table, name);
        assert_eq!((found.rule, found.why), (Rule::Hash { length: None }, Why::Follows("customer.id".to_owned())));
        assert!(found.form.unique, "its values look as those it refers to");
    }
    let mail = of(&plan, "orders", "mail");
    assert_eq!((mail.rule, mail.form.fold), (Rule::Fake(Fake::Email), Fold::Case));
    assert_eq!(of(&plan, "line", "text").why, Why::Unclassified);
}

#[test]
fn a_strict_profile_names_every_column_nobody_classified() {
    let profile = profile(true, &[("customer", "id", "keep"), ("customer", "email", "?"), ("line", "text", "null")]);
    let refused = decide(&profile, &shop()).expect_err("refused");
    let wanted = ["customer.email", "customer.name", "orders.id", "orders.mail"].map(str::to_owned).to_vec();
    assert_eq!(refused.0, [Refusal::Unclassified { columns: wanted }]);
}

#[test]
fn what_would_break_a_reference_is_refused_before_anything_is_read() {
    let differ = decide(&profile(false, &[("customer", "id", "hash"), ("orders", "customer", "keep")]), &shop());
    let text = differ.expect_err("refused").to_string();
    assert!(text.contains("customer.id (hash) and orders.customer (keep)"), "{text}");
    let fixed = Profile {
        rules: vec![("customer".into(), "email".into(), Some(Rule::Fixed(Fixed::Text("x".into()))))],
        ..Profile::default()
    };
    assert!(decide(&fixed, &shop()).expect_err("refused").to_string().contains("customer.email is connected"));
    // What only refers may become NULL, and leaves the others alone.
    let plan =
        decide(&profile(false, &[("line", "buyer", "null"), ("customer", "id", "hash")]), &shop()).expect("a plan");
    assert_eq!(of(&plan, "line", "buyer").rule, Rule::Null);
    assert_eq!(of(&plan, "orders", "customer").rule, Rule::Hash { length: None });
}

#[test]
fn slips_of_the_pen_are_named_all_at_once() {
    let mut facts = shop();
    facts[2].columns.push(ColumnFacts { generated: true, ..column("sum") });
    let mut wrong = profile(
        false,
        &[
            ("customers", "id", "keep"),
            ("customer", "mail", "hash"),
            ("customer", "id", "null"),
            ("line", "sum", "hash"),
        ],
    );
    wrong.empty.push("sessions".to_owned());
    let text = decide(&wrong, &facts).expect_err("refused").to_string();
    for part in
        ["\"sessions\"", "\"customers\"", "no column \"mail\"", "line.sum is computed", "customer.id takes no NULL"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_empty_table_needs_no_rules_and_gives_none() {
    let only = Profile {
        strict: true,
        empty: vec!["Customer".into(), "orders".into()],
        rules: profile(true, &[("line", "text", "keep"), ("line", "buyer", "keep")]).rules,
    };
    let plan = decide(&only, &shop()).expect("a plan");
    assert_eq!(plan.tables[0].fate, TableFate::Empty);
    assert!(plan.tables[0].columns.is_empty());
}

#[test]
fn modules_that_cannot_be_masked_must_be_emptied() {
    let odd = |rows| vec![TableFacts { rows, ..table("odd", vec![column("a")]) }];
    let closed = profile(true, &[]);
    for (rows, fate) in
        [(RowsAre::Contentless, TableFate::Empty), (RowsAre::UnknownModule("vec0".into()), TableFate::LeftOut)]
    {
        let text = decide(&closed, &odd(rows.clone())).expect_err("refused").to_string();
        assert!(text.contains("name it in `empty`"), "{text}");
        let emptied = Profile { empty: vec!["odd".into()], ..closed.clone() };
        assert_eq!(decide(&emptied, &odd(rows)).expect("a plan").tables[0].fate, fate);
    }
    assert_eq!(decide(&closed, &odd(RowsAre::Derived)).expect("a plan").tables[0].fate, TableFate::MadeAnew);
}

#[test]
fn a_draft_lists_every_column_and_leaves_open_what_its_name_does_not_tell() {
    let mut facts = shop();
    facts[2].columns.push(column("odd \"name\""));
    let text = draft(&facts);
    for line in [
        "[table.customer]",
        "id = \"?\"",
        "email = \"fake:email\"",
        "# mail follows customer.email",
        "\"odd \\\"name\\\"\" = \"?\"",
        "strict = true",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}
