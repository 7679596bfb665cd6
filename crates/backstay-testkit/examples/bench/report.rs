//! A table of figures and ratios, and which bounds were missed.

use std::fmt;

pub enum Bound {
    Most(f64),
    Least(f64),
}

impl Bound {
    fn holds(&self, value: f64) -> bool {
        match self {
            Bound::Most(most) => value <= *most,
            Bound::Least(least) => value >= *least,
        }
    }
}

struct Row {
    name: String,
    value: String,
    bound: String,
    kept: bool,
}

pub struct Table {
    title: String,
    rows: Vec<Row>,
}

impl Table {
    pub fn new(title: String) -> Self {
        Self { title, rows: Vec::new() }
    }

    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        let value = format!("{value:.3} {unit}");
        self.rows.push(Row { name: name.into(), value, bound: String::new(), kept: true });
    }

    pub fn bound(&mut self, name: &str, value: f64, bound: Bound) {
        let kept = bound.holds(value);
        let text = match bound {
            Bound::Most(most) => format!("at most {most}"),
            Bound::Least(least) => format!("at least {least}"),
        };
        self.rows.push(Row { name: name.into(), value: format!("{value:.3}"), bound: text, kept });
    }

    pub fn missed(&self) -> Vec<String> {
        self.rows.iter().filter(|r| !r.kept).map(|r| format!("{} = {} ({})", r.name, r.value, r.bound)).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for row in &self.rows {
            let verdict = match (row.bound.is_empty(), row.kept) {
                (true, _) => "",
                (false, true) => "kept",
                (false, false) => "MISSED",
            };
            writeln!(f, "  {:<52} {:>12}  {:<14} {verdict}", row.name, row.value, row.bound)?;
        }
        Ok(())
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
