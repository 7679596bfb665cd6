//! Columns that line up.

use crate::diagnostics::render::{Colour, safe};

/// Which side of its column a cell keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows under a heading. A row shorter than the heading is filled up with empty cells, a longer one is cut.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(columns: [(&str, Align); N]) -> Self {
        Self { columns: columns.map(|(name, align)| (name.to_owned(), align)).into(), rows: Vec::new() }
    }

    /// A table whose columns are known only when it is made.
    pub fn of(columns: Vec<(String, Align)>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub fn push(&mut self, cells: &[String]) {
        self.rows.push(cells.iter().map(|cell| safe(cell)).collect());
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.push(&cells);
    }

    /// The heading and the rows, two spaces between columns, nothing at the end of a line.
    pub fn render(&self, colour: Colour) -> String {
        let width = |text: &String| text.chars().count();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, (name, _))| self.rows.iter().filter_map(|row| row.get(at)).chain([name]).map(width).max())
            .map(|widest| widest.unwrap_or(0))
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = self.columns.iter().zip(&widths).map(|((_, align), width)| {
                let cell = cells.next().unwrap_or_default();
                match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let heading = line(&mut self.columns.iter().map(|(name, _)| name.as_str()));
        let mut text = colour.paint("1", &heading) + "\n";
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
            text.push('\n');
        }
        text
    }
}
