// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a script says about its cases, one line each: `@CASE NAME ok|FAIL WORDS`. The guest's scripts and those of the NBD
//! clients speak it.

use std::fmt::Display;

use crate::report::{Lane, Result, ensure};

/// One such line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) case: String,
    pub(crate) ok: bool,
    pub(crate) words: String,
}

/// Finds the verdicts in an output that may hold other lines.
pub(crate) fn parse(output: &str) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for line in output.lines().filter_map(|line| line.strip_prefix("@CASE ")) {
        let mut words = line.splitn(3, ' ');
        let (case, outcome) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        ensure(["ok", "FAIL"].contains(&outcome), || format!("a garbled line: {line}"))?;
        let words = words.next().unwrap_or_default().to_owned();
        verdicts.push(Verdict { case: case.to_owned(), ok: outcome == "ok", words });
    }
    Ok(verdicts)
}

/// Notes each verdict as a case of the lane. Every case in `wanted` must be there: a script that skips one shows nothing.
pub(crate) fn note<S: AsRef<str> + Display>(lane: &mut Lane, verdicts: &[Verdict], wanted: &[S]) {
    for Verdict { case, ok, words } in verdicts {
        if *ok {
            lane.pass(case, words);
        } else {
            lane.fail(case, words);
        }
    }
    for case in wanted.iter().filter(|case| !verdicts.iter().any(|verdict| verdict.case == case.as_ref())) {
        lane.fail(case, "the script said nothing about it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_found_between_other_lines() {
        let found =
            parse("noise\n@CASE a.bind ok 32 bytes in all\n[ 1.0] noise\n@CASE b FAIL \n").expect("whole");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], Verdict { case: "a.bind".into(), ok: true, words: "32 bytes in all".into() });
        assert!(!found[1].ok);
        assert!(parse("@CASE a perhaps\n").is_err());
    }
}
