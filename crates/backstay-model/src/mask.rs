//! Masked copies: what a profile asks for, and what is done with each column of a schema.
//!
//! Values that refer to one another are masked alike: columns that foreign keys connect are one family, and a
//! family has one rule. Who is not named in a profile takes the rule of its family.

mod decide;
mod draft;
#[cfg(test)]
mod tests;

pub use decide::decide;
pub use draft::draft;

use crate::{Kind, Kinded};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// What a person wants done with the values of a column.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    Keep,
    Null,
    Fixed(Fixed),
    /// Another value that is the same for the same value; text of so many characters at the most.
    Hash {
        length: Option<u16>,
    },
    Fake(Fake),
}

/// A value that a profile can write.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Fixed {
    Integer(i64),
    Real(f64),
    Text(String),
}

/// What a made-up value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fake {
    Name,
    GivenName,
    FamilyName,
    Email,
    Phone,
    Address,
    City,
    Company,
    User,
    /// Words, as long as what they stand for.
    Text,
    /// Another day of the same year.
    Date,
}

impl Fake {
    pub const ALL: [(&'static str, Fake); 11] = [
        ("name", Fake::Name),
        ("given-name", Fake::GivenName),
        ("family-name", Fake::FamilyName),
        ("email", Fake::Email),
        ("phone", Fake::Phone),
        ("address", Fake::Address),
        ("city", Fake::City),
        ("company", Fake::Company),
        ("user", Fake::User),
        ("text", Fake::Text),
        ("date", Fake::Date),
    ];
}

/// As a profile writes it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Keep => f.write_str("keep"),
            Rule::Null => f.write_str("null"),
            Rule::Fixed(Fixed::Integer(n)) => write!(f, "fixed {n}"),
            Rule::Fixed(Fixed::Real(x)) => write!(f, "fixed {x}"),
            Rule::Fixed(Fixed::Text(text)) => write!(f, "fixed {text:?}"),
            Rule::Hash { length: None } => f.write_str("hash"),
            Rule::Hash { length: Some(length) } => write!(f, "hash of {length}"),
            Rule::Fake(fake) => {
                let name = Fake::ALL.iter().find(|(_, known)| known == fake).map_or("", |(name, _)| name);
                write!(f, "fake:{name}")
            }
        }
    }
}

/// The rules that are one word.
impl FromStr for Rule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("fake:")) {
            ("keep", _) => Ok(Rule::Keep),
            ("null", _) => Ok(Rule::Null),
            ("hash", _) => Ok(Rule::Hash { length: None }),
            (_, Some(word)) => {
                Fake::ALL.iter().find(|(name, _)| *name == word).map(|(_, fake)| Rule::Fake(*fake)).ok_or_else(|| {
                    let known: Vec<&str> = Fake::ALL.iter().map(|(name, _)| *name).collect();
                    format!("nothing is made up as {word:?}; there are {}", known.join(", "))
                })
            }
            _ => Err(format!(
                "{text:?} is no rule: write keep, null, hash, fake:NAME, {{ fixed = VALUE }} or {{ hash = LENGTH }}"
            )),
        }
    }
}

/// What a person wrote about a database.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// Whether a column that nobody classified stops the restore; otherwise it is kept as it is.
    pub strict: bool,
    /// Tables whose rows are left out.
    pub empty: Vec<String>,
    /// Table, column, rule; `None` where the profile has a column and leaves it open.
    pub rules: Vec<(String, String, Option<Rule>)>,
}

/// A table as far as masking needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    pub name: String,
    pub rows: RowsAre,
    pub columns: Vec<ColumnFacts>,
}

/// How the rows of a table can be read and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowsAre {
    Stored,
    /// In a module that takes them through its table.
    Virtual,
    /// Made anew by the module from another table.
    Derived,
    /// A search index that does not keep what it was made from.
    Contentless,
    /// In a module that is not there.
    UnknownModule(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ColumnFacts {
    pub name: String,
    /// The most characters its declared type speaks of.
    pub length: Option<u16>,
    /// It takes no NULL.
    pub not_null: bool,
    /// Computed by SQLite.
    pub generated: bool,
    /// Part of a key that tells rows apart.
    pub unique: bool,
    pub fold: Fold,
    /// Text that is a number becomes one.
    pub numeric: bool,
    /// Table and column of what it refers to.
    pub references: Vec<(String, String)>,
}

/// Which texts a column takes for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum Fold {
    #[default]
    Exact,
    /// But for spaces at the end.
    Trailing,
    /// But for the case of ASCII letters.
    Case,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MaskPlan {
    pub tables: Vec<TablePlan>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TablePlan {
    pub name: String,
    pub fate: TableFate,
    /// In the order of the table.
    pub columns: Vec<ColumnPlan>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableFate {
    Masked,
    /// Its rows are left out.
    Empty,
    /// Filled by its module from what was masked.
    MadeAnew,
    /// Not made, because its module is not there.
    LeftOut,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ColumnPlan {
    pub name: String,
    pub rule: Rule,
    pub why: Why,
    pub form: Form,
}

/// What besides the rule decides how a value looks: the same in all of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Form {
    /// Values must not fall together.
    pub unique: bool,
    pub fold: Fold,
    pub numeric: bool,
    pub length: Option<u16>,
}

/// Why a column has its rule.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    Profile,
    /// A foreign key connects it with this column.
    Follows(String),
    /// Nobody classified it, and the profile is not strict.
    Unclassified,
    Generated,
}

/// Why a profile cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NoTable { table: String },
    NoColumn { table: String, column: String },
    Generated { column: String },
    Unclassified { columns: Vec<String> },
    NotNull { column: String },
    Connected { column: String, rule: String },
    Differ { one: String, other: String, rules: (String, String) },
    Contentless { table: String },
    UnknownModule { table: String, module: String },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoTable { table } => write!(f, "there is no table {table:?} at that moment"),
            Refusal::NoColumn { table, column } => write!(f, "the table {table:?} has no column {column:?}"),
            Refusal::Generated { column } => {
                write!(f, "{column} is computed from other columns and cannot be masked by itself")
            }
            Refusal::Unclassified { columns } => write!(f, "nobody classified {}", columns.join(", ")),
            Refusal::NotNull { column } => write!(f, "{column} takes no NULL"),
            Refusal::Connected { column, rule } => {
                write!(f, "{column} is connected with others by a foreign key and cannot be {rule}")
            }
            Refusal::Differ { one, other, rules } => {
                write!(
                    f,
                    "{one} ({}) and {other} ({}) are connected by a foreign key and need one rule",
                    rules.0, rules.1
                )
            }
            Refusal::Contentless { table } => {
                write!(f, "the search index {table:?} does not keep what it was made from: name it in `empty`")
            }
            Refusal::UnknownModule { table, module } => {
                write!(f, "{table:?} needs the module {module:?}, which is not here: name it in `empty`")
            }
        }
    }
}

/// All reasons at once, so that a profile is mended in one go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the profile cannot be followed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refused(pub Vec<Refusal>);

impl Kinded for Refused {
    fn kind(&self) -> Kind {
        Kind::Usage
    }
}

/// `customer.email`, as people and profiles name columns.
fn dotted(table: &str, column: &str) -> String {
    format!("{table}.{column}")
}

/// SQLite tells names apart without looking at the case of ASCII letters.
fn known(name: &str) -> String {
    name.to_ascii_lowercase()
}

type Names = BTreeSet<(String, String)>;
type ByName<T> = BTreeMap<(String, String), T>;
