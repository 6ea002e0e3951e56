// SPDX-License-Identifier: MIT OR Apache-2.0
//! One failure, in a line that says how to see it again.

use std::fmt;
use std::str::FromStr;

use nvstack_btt_sim::sim::Mutant;
use nvstack_media::{Error, Kind};
use nvstack_sim::{Lost, Model};

use crate::schedule::Turn;
use crate::workload::Workload;

/// A moment of a workload, and one image that a cut then leaves. Its text is the seed that a person types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The model.
    pub model: Model,
    /// What was left out.
    pub mutant: Option<Mutant>,
    /// The tasks.
    pub workload: Workload,
    /// The task that made each step; with bit 7 set if the step failed, because it was made to.
    pub schedule: Vec<u8>,
    /// Which image.
    pub choice: Vec<u16>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mutant = self.mutant.map_or("none", Mutant::name);
        write!(f, "{};{mutant};{};", self.model, self.workload)?;
        for run in self.schedule.chunk_by(|a, b| a == b) {
            let turn = Turn::from_code(run.first().copied().unwrap_or(0));
            let first = if turn.fails { b'A' } else { b'a' };
            write!(f, "{}{}", char::from(first + (turn.task as u8).min(25)), run.len())?;
        }
        let choice: Vec<String> = self.choice.iter().map(u16::to_string).collect();
        write!(f, ";{}", choice.join("."))
    }
}

/// The mutant of a name.
pub fn mutant(name: &str) -> Option<Mutant> {
    Mutant::ALL.iter().copied().find(|m| m.name() == name)
}

impl FromStr for Case {
    type Err = Error;

    fn from_str(text: &str) -> Result<Case, Error> {
        let wrong = || {
            Error::new(Kind::Invalid, "read seed")
                .found(format_args!("{text:?}"))
                .accepted("MODEL;MUTANT;WORKLOAD;STEPS;IMAGE, as a failure shows it")
        };
        let mut parts = text.split(';');
        let mut next = || parts.next().ok_or_else(wrong);
        let model = next()?.parse()?;
        let mutant = match next()? {
            "none" => None,
            name => Some(mutant(name).ok_or_else(wrong)?),
        };
        let workload: Workload = next()?.parse()?;
        let mut schedule = Vec::new();
        let mut steps = next()?.chars().peekable();
        while let Some(task) = steps.next() {
            let mut count = 0usize;
            while let Some(digit) = steps.peek().and_then(|c| c.to_digit(10)) {
                count = count.saturating_mul(10).saturating_add(digit as usize);
                steps.next();
            }
            let (fails, first) = if task.is_ascii_uppercase() { (true, b'A') } else { (false, b'a') };
            let task = u8::try_from(task).ok().and_then(|t| t.checked_sub(first)).filter(|t| *t < 26);
            let task = Turn { task: task.ok_or_else(wrong)?.into(), fails }.code();
            if schedule.len().saturating_add(count) > 100_000 {
                return Err(wrong());
            }
            schedule.extend(std::iter::repeat_n(task, count));
        }
        let choice = next()?.split('.').filter(|d| !d.is_empty()).map(str::parse).collect::<Result<_, _>>();
        Ok(Case { model, mutant, workload, schedule, choice: choice.map_err(|_| wrong())? })
    }
}

/// A failure.
#[derive(Clone, Debug)]
pub struct Violation {
    /// How to see it again.
    pub case: Case,
    /// What was wrong.
    pub what: String,
    /// The stores that the image does not have.
    pub lost: Vec<Lost>,
    /// Changes of task, steps, lost stores: the smaller, the easier to follow.
    pub size: (usize, usize, usize),
    /// States of its workload that were looked at before it was found.
    pub states: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(f, "  seed: {}", self.case)?;
        let tasks: Vec<String> = self
            .case
            .workload
            .tasks
            .iter()
            .map(|task| task.iter().map(ToString::to_string).collect::<Vec<_>>().join(" then "))
            .collect();
        writeln!(f, "  workload: {}", tasks.join(" beside "))?;
        for lost in &self.lost {
            let file = lost.site.file().rsplit('/').next().unwrap_or_default();
            writeln!(
                f,
                "  lost: {:#018x} at {:#x}, stored at {file}:{}",
                lost.value,
                lost.at,
                lost.site.line()
            )?;
        }
        Ok(())
    }
}
