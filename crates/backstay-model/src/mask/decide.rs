//! From a profile and a schema to what is done with each column, or to all reasons why not.

use super::{
    ByName, ColumnFacts, ColumnPlan, Fold, Form, MaskPlan, Names, Profile, Refusal, Refused, RowsAre, Rule, TableFacts,
    TableFate, TablePlan, Why, dotted, known,
};
use std::collections::BTreeMap;

pub fn decide(profile: &Profile, tables: &[TableFacts]) -> Result<MaskPlan, Refused> {
    let mut refusals = names_that_are_not_there(profile, tables);
    let asked = Asked::of(profile, tables);
    let families = Families::of(tables, &asked);
    let rules = families.rules(&asked, &mut refusals);
    let mut open = Vec::new();
    let mut plan = MaskPlan { tables: Vec::new() };
    for table in tables {
        let fate = fate(profile, table, &mut refusals);
        let mut columns = Vec::new();
        for column in table.columns.iter().filter(|_| fate == TableFate::Masked) {
            let at = key(&table.name, &column.name);
            let (rule, why) =
                match (asked.rules.get(&at), families.of_column(&at).and_then(|family| rules.get(&family))) {
                    _ if column.generated => (Rule::Keep, Why::Generated),
                    (Some((rule, _)), _) => (rule.clone(), Why::Profile),
                    (None, Some((rule, name))) => (rule.clone(), Why::Follows(name.clone())),
                    (None, None) => {
                        open.push(dotted(&table.name, &column.name));
                        (Rule::Keep, Why::Unclassified)
                    }
                };
            if rule == Rule::Null && column.not_null {
                refusals.push(Refusal::NotNull { column: dotted(&table.name, &column.name) });
            }
            let form = families.form(&at, column);
            columns.push(ColumnPlan { name: column.name.clone(), rule, why, form });
        }
        plan.tables.push(TablePlan { name: table.name.clone(), fate, columns });
    }
    if profile.strict && !open.is_empty() {
        refusals.push(Refusal::Unclassified { columns: open });
    }
    if refusals.is_empty() { Ok(plan) } else { Err(Refused(refusals)) }
}

fn key(table: &str, column: &str) -> (String, String) {
    (known(table), known(column))
}

fn is_empty(profile: &Profile, table: &str) -> bool {
    profile.empty.iter().any(|name| name.eq_ignore_ascii_case(table))
}

fn fate(profile: &Profile, table: &TableFacts, refusals: &mut Vec<Refusal>) -> TableFate {
    let name = || table.name.clone();
    match (&table.rows, is_empty(profile, &table.name)) {
        (RowsAre::UnknownModule(_), true) => TableFate::LeftOut,
        (_, true) => TableFate::Empty,
        (RowsAre::Stored | RowsAre::Virtual, false) => TableFate::Masked,
        (RowsAre::Derived, false) => TableFate::MadeAnew,
        (RowsAre::Contentless, false) => {
            refusals.push(Refusal::Contentless { table: name() });
            TableFate::Empty
        }
        (RowsAre::UnknownModule(module), false) => {
            refusals.push(Refusal::UnknownModule { table: name(), module: module.clone() });
            TableFate::LeftOut
        }
    }
}

/// A name that leads nowhere is a slip of the pen, and what it was meant for would go out unmasked.
fn names_that_are_not_there(profile: &Profile, tables: &[TableFacts]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let find = |name: &str| tables.iter().find(|table| table.name.eq_ignore_ascii_case(name));
    for table in profile.empty.iter().filter(|name| find(name).is_none()) {
        refusals.push(Refusal::NoTable { table: table.clone() });
    }
    for (table, column, rule) in &profile.rules {
        let Some(facts) = find(table) else {
            let refusal = Refusal::NoTable { table: table.clone() };
            if !refusals.contains(&refusal) {
                refusals.push(refusal);
            }
            continue;
        };
        match facts.columns.iter().find(|facts| facts.name.eq_ignore_ascii_case(column)) {
            None => refusals.push(Refusal::NoColumn { table: table.clone(), column: column.clone() }),
            Some(facts) if facts.generated && rule.as_ref().is_some_and(|rule| *rule != Rule::Keep) => {
                refusals.push(Refusal::Generated { column: dotted(table, column) });
            }
            Some(_) => {}
        }
    }
    refusals
}

/// The rules of the profile for columns whose rows are there, with the name each column goes by.
struct Asked {
    rules: ByName<(Rule, String)>,
    /// Columns of tables that keep rows.
    present: Names,
}

impl Asked {
    fn of(profile: &Profile, tables: &[TableFacts]) -> Self {
        let with_rows = tables.iter().filter(|table| !is_empty(profile, &table.name));
        let columns = with_rows.flat_map(|table| table.columns.iter().map(|column| key(&table.name, &column.name)));
        let present: Names = columns.collect();
        let rules = profile.rules.iter().filter_map(|(table, column, rule)| {
            let at = key(table, column);
            let rule = rule.clone().filter(|_| present.contains(&at))?;
            Some((at, (rule, dotted(table, column))))
        });
        Self { rules: rules.collect(), present }
    }
}

/// Columns that foreign keys connect. A column that only refers and becomes NULL leaves its family.
struct Families {
    /// Of each column, the one that stands for its family.
    head: ByName<(String, String)>,
    forms: ByName<Form>,
    referenced: Names,
}

impl Families {
    fn of(tables: &[TableFacts], asked: &Asked) -> Self {
        let mut families = Self { head: BTreeMap::new(), forms: BTreeMap::new(), referenced: Names::new() };
        let edges = || {
            let columns = tables.iter().flat_map(|table| table.columns.iter().map(move |column| (table, column)));
            columns.flat_map(|(table, column)| {
                let from = key(&table.name, &column.name);
                column.references.iter().map(move |(table, column)| (from.clone(), key(table, column)))
            })
        };
        let there = |(from, to): &((String, String), (String, String))| {
            asked.present.contains(from) && asked.present.contains(to)
        };
        families.referenced = edges().filter(there).filter(|(from, to)| from != to).map(|(_, to)| to).collect();
        for (from, to) in edges().filter(there) {
            let is_null = matches!(asked.rules.get(&from), Some((Rule::Null, _)));
            if is_null && !families.referenced.contains(&from) {
                continue;
            }
            families.join(&from, &to);
        }
        for (table, column) in tables.iter().flat_map(|table| table.columns.iter().map(move |column| (table, column))) {
            let Some(head) = families.of_column(&key(&table.name, &column.name)) else { continue };
            let form = families.forms.entry(head).or_default();
            *form = together(*form, column);
        }
        families
    }

    fn of_column(&self, at: &(String, String)) -> Option<(String, String)> {
        let mut at = at;
        let mut found = None;
        while let Some(head) = self.head.get(at) {
            found = Some(head.clone());
            if head == at {
                break;
            }
            at = head;
        }
        found
    }

    fn join(&mut self, one: &(String, String), other: &(String, String)) {
        for at in [one, other] {
            self.head.entry(at.clone()).or_insert_with(|| at.clone());
        }
        if let (Some(one), Some(other)) = (self.of_column(one), self.of_column(other)) {
            self.head.insert(one, other);
        }
    }

    /// The rule of each family that has one, and the column that says so.
    fn rules(&self, asked: &Asked, refusals: &mut Vec<Refusal>) -> ByName<(Rule, String)> {
        let mut rules: ByName<(Rule, String)> = BTreeMap::new();
        for (at, (rule, name)) in &asked.rules {
            let Some(head) = self.of_column(at) else { continue };
            if matches!(rule, Rule::Null | Rule::Fixed(_)) {
                refusals.push(Refusal::Connected { column: name.clone(), rule: rule.to_string() });
            }
            match rules.get(&head) {
                Some((other, by)) if other != rule => refusals.push(Refusal::Differ {
                    one: by.clone(),
                    other: name.clone(),
                    rules: (other.to_string(), rule.to_string()),
                }),
                Some(_) => {}
                None => {
                    rules.insert(head, (rule.clone(), name.clone()));
                }
            }
        }
        rules
    }

    fn form(&self, at: &(String, String), column: &ColumnFacts) -> Form {
        let of_family = self.of_column(at).and_then(|head| self.forms.get(&head).copied());
        of_family.unwrap_or_else(|| together(Form::default(), column))
    }
}

fn together(form: Form, column: &ColumnFacts) -> Form {
    let shorter = |a: Option<u16>, b: Option<u16>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Form {
        unique: form.unique || column.unique,
        fold: form.fold.max(column.fold).max(Fold::Exact),
        numeric: form.numeric || column.numeric,
        length: shorter(form.length, column.length),
    }
}
