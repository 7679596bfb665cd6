//! A profile to begin with: every column listed, those with telling names with a rule, the others open.

use super::{Fake, RowsAre, Rule, TableFacts};
use std::fmt::Write;

/// Parts of names, and what a column with such a name usually holds. The first that fits counts.
const TELLING: [(&str, Rule); 26] = [
    ("email", Rule::Fake(Fake::Email)),
    ("e_mail", Rule::Fake(Fake::Email)),
    ("phone", Rule::Fake(Fake::Phone)),
    ("mobile", Rule::Fake(Fake::Phone)),
    ("fax", Rule::Fake(Fake::Phone)),
    ("first_name", Rule::Fake(Fake::GivenName)),
    ("firstname", Rule::Fake(Fake::GivenName)),
    ("given_name", Rule::Fake(Fake::GivenName)),
    ("last_name", Rule::Fake(Fake::FamilyName)),
    ("lastname", Rule::Fake(Fake::FamilyName)),
    ("surname", Rule::Fake(Fake::FamilyName)),
    ("family_name", Rule::Fake(Fake::FamilyName)),
    ("full_name", Rule::Fake(Fake::Name)),
    ("username", Rule::Fake(Fake::User)),
    ("user_name", Rule::Fake(Fake::User)),
    ("login", Rule::Fake(Fake::User)),
    ("company", Rule::Fake(Fake::Company)),
    ("address", Rule::Fake(Fake::Address)),
    ("street", Rule::Fake(Fake::Address)),
    ("birth", Rule::Fake(Fake::Date)),
    ("password", Rule::Hash { length: None }),
    ("token", Rule::Hash { length: None }),
    ("secret", Rule::Hash { length: None }),
    ("iban", Rule::Hash { length: None }),
    ("ssn", Rule::Hash { length: None }),
    ("api_key", Rule::Hash { length: None }),
];

const HEAD: &str = "\
# What becomes of each column in a masked copy. A rule is \"keep\", \"null\", \"hash\", \"fake:NAME\",
# { fixed = VALUE } or { hash = LENGTH }. \"?\" is open: a strict profile refuses to go on with one.
# Columns that a foreign key connects need one rule; those left out follow the one that has it.
version = 1
strict = true
# The same values become the same ones in every restore with this key: 32 random bytes or more, kept like a password.
# key_file = \"./mask.key\"
# Tables whose rows are left out.
empty = []
";

pub fn draft(tables: &[TableFacts]) -> String {
    let mut text = HEAD.to_owned();
    for table in tables {
        let _ = match &table.rows {
            RowsAre::Stored | RowsAre::Virtual => Ok(()),
            RowsAre::Derived => write!(text, "\n# {:?} is made anew from what it indexes.\n", table.name),
            RowsAre::Contentless => {
                write!(text, "\n# {:?} does not keep what it was made from: name it in `empty`.\n", table.name)
            }
            RowsAre::UnknownModule(module) => {
                write!(
                    text,
                    "\n# {:?} needs the module {module:?}, which is not here: name it in `empty`.\n",
                    table.name
                )
            }
        };
        if !matches!(table.rows, RowsAre::Stored | RowsAre::Virtual) {
            continue;
        }
        let _ = write!(text, "\n[table.{}]\n", key(&table.name));
        for column in &table.columns {
            let name = key(&column.name);
            let _ = match column.references.first() {
                _ if column.generated => writeln!(text, "# {name} is computed from other columns"),
                Some((table, column)) => writeln!(text, "# {name} follows {table}.{column}"),
                None => writeln!(text, "{name} = \"{}\"", proposed(&column.name)),
            };
        }
    }
    text
}

fn proposed(column: &str) -> String {
    let lower = column.to_ascii_lowercase();
    if lower == "name" {
        return Rule::Fake(Fake::Name).to_string();
    }
    if lower == "city" {
        return Rule::Fake(Fake::City).to_string();
    }
    TELLING.iter().find(|(part, _)| lower.contains(part)).map_or_else(|| "?".to_owned(), |(_, rule)| rule.to_string())
}

/// A key as TOML writes it.
fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if is_bare {
        return name.to_owned();
    }
    let mut text = String::from("\"");
    for c in name.chars() {
        match c {
            '"' | '\\' => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => {
                let _ = write!(text, "\\u{:04X}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}
