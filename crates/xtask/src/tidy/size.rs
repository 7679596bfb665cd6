//! Sizes ratchet: no function over 70 lines, no file over 700; the middle is reported, not gated.

use super::House;
use crate::finding::Finding;
use crate::sources::{File, Sources};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 700;

pub fn judge(house: &House) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in house.sources.files.values().filter(|file| !file.test) {
        let length = length(file);
        if length > FILE_LINES_MAX {
            findings.push(Finding {
                file: file.path.clone(),
                line: length,
                what: format!("{length} lines without tests and tables, over {FILE_LINES_MAX}"),
                why: "a file is read in one sitting",
                instead: "split it by what its parts own".to_owned(),
            });
        }
        for function in file.source.functions.iter().filter(|f| !f.test && !f.excused) {
            if function.length > FUNCTION_LINES_MAX {
                findings.push(Finding {
                    file: file.path.clone(),
                    line: function.line,
                    what: format!("`{}` is {} lines, over {FUNCTION_LINES_MAX}", function.name, function.length),
                    why: "a long function decides and acts at once",
                    instead: "split by decision and effect, not by line count; where it truly cannot be, write \
                              `#[expect(clippy::too_many_lines, reason = \"...\")]` on it"
                        .to_owned(),
                });
            }
        }
    }
    findings
}

/// Lines of a non-test file: its tests and its constant tables do not count.
fn length(file: &File) -> usize {
    let source = &file.source;
    let table = |line: usize| source.table_lines.iter().any(|range| range.contains(&line));
    (1..=file.text_lines).filter(|line| !source.in_test(*line) && !table(*line)).count()
}

/// The reported figures, as one line each.
pub fn measure(sources: &Sources) -> String {
    let shipped = || sources.files.values().filter(|file| !file.test);
    let files = shipped().map(length).collect();
    let functions = shipped().flat_map(|f| f.source.functions.iter().filter(|f| !f.test).map(|f| f.length)).collect();
    let all: usize = sources.files.values().map(|file| file.text_lines).sum();
    let tests: usize = sources.files.values().map(test_lines).sum();
    let share = 100 * tests / all.max(1);
    let excused = shipped().flat_map(|f| &f.source.functions).filter(|f| f.excused).count();
    format!(
        "functions: {}; {excused} excused (budget: median 8, p90 35, none over {FUNCTION_LINES_MAX})\n\
         files:     {} (budget: median 200, p90 450, none over {FILE_LINES_MAX})\n\
         tests:     {share} % of {all} lines (budget: at least 45 %)",
        spread(functions),
        spread(files)
    )
}

fn test_lines(file: &File) -> usize {
    if file.test {
        return file.text_lines;
    }
    (1..=file.text_lines).filter(|line| file.source.in_test(*line)).count()
}

fn spread(mut lengths: Vec<usize>) -> String {
    lengths.sort_unstable();
    let at = |percent: usize| lengths.get((lengths.len() * percent / 100).min(lengths.len().saturating_sub(1)));
    let at = |percent| at(percent).copied().unwrap_or_default();
    format!("{} with median {}, p90 {}, longest {}", lengths.len(), at(50), at(90), at(100))
}
