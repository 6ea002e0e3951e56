// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much was tried: what tests count while a chore runs.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, ExitStatus};

use nvstack_tally::{COUNTS, Count, LONG};

use crate::report::{Context, Result};
use crate::unit::target;

/// The parts that count, with what each is. Others are taken as they come.
pub(crate) const PARTS: [(&str, &str); 7] = [
    ("explore", "power cuts: every interleaving, every image, recovery of each"),
    ("mutants", "parts of the protocols left out, each of which must be noticed"),
    ("concurrency", "threads: every interleaving of small cases, random ones of larger"),
    ("fuzz", "hostile bytes"),
    ("faults", "failing media and system calls"),
    ("kill", "kill -9 under load"),
    ("guest", "a real Linux as the judge"),
];

/// The part under which a lane counts its own cases.
pub(crate) const LANES: &str = "lanes";

/// Whether the tests of this process are counted already, by the one that started it.
pub(crate) fn counting() -> bool {
    std::env::var_os(COUNTS).is_some()
}

/// Runs this program again, so that its tests count. `long` makes them try all that they can.
pub(crate) fn counted<S: AsRef<std::ffi::OsStr>>(args: &[S], long: bool) -> Result<(ExitStatus, Vec<Count>)> {
    // Tests run in the folders of their packages.
    let path =
        std::path::absolute(target().join(format!("counts-{}", std::process::id()))).context("counts")?;
    let _ = fs::remove_file(&path);
    let mut again = Command::new(std::env::current_exe().context("this program")?);
    again.args(args).env(COUNTS, &path);
    if long {
        again.env(LONG, "1");
    }
    let status = again.status().context("this program, again")?;
    let text =
        if path.is_file() { fs::read_to_string(&path).context(path.display())? } else { String::new() };
    let _ = fs::remove_file(&path);
    let counts = text.lines().map(|line| serde_json::from_str(line).context(line)).collect::<Result<_>>()?;
    Ok((status, summed(counts)))
}

/// Shows counts under the lanes' own table.
pub(crate) fn show(counts: &[Count]) {
    let counts: Vec<&Count> = counts.iter().filter(|count| count.part != LANES).collect();
    if !counts.is_empty() {
        println!("\n{:<12} {:<60} {:>16}", "part", "case", "count");
    }
    for count in counts {
        println!("{:<12} {:<60} {:>16} {}", count.part, count.case, grouped(count.count), count.unit);
    }
}

/// Counts of the same thing, as one; in the order of [`PARTS`].
pub(crate) fn summed(counts: Vec<Count>) -> Vec<Count> {
    let mut sums: BTreeMap<(usize, String, String, String), Count> = BTreeMap::new();
    for count in counts {
        let place = PARTS.iter().position(|(part, _)| *part == count.part).unwrap_or(PARTS.len());
        let sum = sums.entry((place, count.part.clone(), count.case.clone(), count.unit.clone()));
        sum.and_modify(|sum| sum.count += count.count).or_insert(count);
    }
    sums.into_values().collect()
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([0, 999, 1000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
    }

    #[test]
    fn equal_cases_are_one() {
        let count = |part: &str, case: &str, count| Count {
            part: part.into(),
            case: case.into(),
            unit: "x".into(),
            count,
        };
        let sums = summed(vec![
            count("other", "a", 9),
            count("guest", "a", 1),
            count("explore", "b", 2),
            count("guest", "a", 3),
        ]);
        assert_eq!(sums, [count("explore", "b", 2), count("guest", "a", 4), count("other", "a", 9)]);
    }
}
