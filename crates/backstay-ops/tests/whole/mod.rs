//! The whole merge of two moments, as it is without what is known of their pages.

use backstay_ops::env::blocking;
use backstay_ops::query::{Asker, Past};
use backstay_ops::rows::{self, TableCounts};
use backstay_sqlite::lazy::{Go, Session};
use backstay_sqlite::rows::{Change, Compared, Scopes, compare_table, tables_of};
use std::collections::BTreeMap;

fn whole(before: &Session, after: &Session) -> Vec<(String, TableCounts, Vec<Change>)> {
    let tables = tables_of(before, after, None).expect("tables");
    let one = |compared: Compared| {
        let mut changes = Vec::new();
        let scope = Scopes::all().of(&compared.after.name);
        let counts = compare_table((before, after), (&compared, &scope), &|| Go::On, &mut |change| {
            changes.push(change);
            Go::On
        });
        (compared.after.name, counts.expect("compared"), changes)
    };
    tables.common.into_iter().map(one).collect()
}

/// Compares what `diff` says with it. How many rows differ.
pub fn is_what_the_whole_merge_says(asker: &Asker<'_>, before: &Past, after: &Past) -> u64 {
    blocking(|| {
        let mut found = BTreeMap::<String, Vec<Change>>::new();
        let report = rows::diff((before, after), None, asker.stop(), &mut |compared, change| {
            found.entry(compared.after.name.clone()).or_default().push(change);
            Go::On
        })
        .expect("a report");
        let (old, new) = (before.session().expect("a session"), after.session().expect("a session"));
        let mut rows = 0;
        for (table, counts, changes) in whole(&old, &new) {
            let said = report.tables.iter().find(|diff| diff.table == table).expect("compared").counts;
            assert_eq!(
                (said.added, said.removed, said.changed),
                (counts.added, counts.removed, counts.changed),
                "{table}"
            );
            assert!(found.remove(&table).unwrap_or_default() == changes, "{table}");
            rows += counts.added + counts.removed + counts.changed;
        }
        rows
    })
}
