// SPDX-License-Identifier: MIT OR Apache-2.0
//! One failure, in a line that says how to see it again.

use std::fmt;
use std::str::FromStr;

use nvstack_media::{Error, Kind};
use nvstack_pfn_sim::sim::Mutant;
use nvstack_sim::{Lost, Model};

use super::workload::Workload;
use crate::share::{ViolationSummary, line};

/// A moment of a workload, and the image that a cut then leaves. Its text is the seed that a person types; it begins with `pfn`, since
/// `pages` is a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The model.
    pub model: Model,
    /// What was left out.
    pub mutant: Option<Mutant>,
    /// What is done, over what.
    pub workload: Workload,
    /// Operations on the medium before the process was killed, if it was.
    pub killed: Option<u64>,
    /// Operations on the medium before the cut, after the kill if there was one.
    pub moment: u64,
    /// Which image.
    pub choice: Vec<u16>,
}

/// The mutant of a name.
#[must_use]
pub fn mutant(name: &str) -> Option<Mutant> {
    Mutant::ALL.iter().copied().find(|m| m.name() == name)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mutant = self.mutant.map_or("none", Mutant::name);
        let choice: Vec<String> = self.choice.iter().map(u16::to_string).collect();
        write!(f, "pfn;{};{mutant};{};", self.model, self.workload)?;
        if let Some(killed) = self.killed {
            write!(f, "{killed}k")?;
        }
        write!(f, "{};{}", self.moment, choice.join("."))
    }
}

impl FromStr for Case {
    type Err = Error;

    fn from_str(text: &str) -> Result<Case, Error> {
        let wrong = || {
            Error::new(Kind::Invalid, "read seed")
                .found(format_args!("{text:?}"))
                .accepted("pfn;MODEL;MUTANT;WORKLOAD;MOMENT;IMAGE, as a failure shows it")
        };
        let parts: Vec<&str> = text.split(';').collect();
        let ["pfn", model, name, workload, moment, choice] = *parts.as_slice() else {
            return Err(wrong());
        };
        let mutant = match name {
            "none" => None,
            name => Some(mutant(name).ok_or_else(wrong)?),
        };
        let (killed, moment) = match moment.split_once('k') {
            Some((killed, moment)) => (Some(killed.parse().map_err(|_| wrong())?), moment),
            None => (None, moment),
        };
        let choice = choice.split('.').filter(|d| !d.is_empty()).map(str::parse).collect::<Result<_, _>>();
        Ok(Case {
            model: model.parse()?,
            mutant,
            workload: workload.parse()?,
            killed,
            moment: moment.parse().map_err(|_| wrong())?,
            choice: choice.map_err(|_| wrong())?,
        })
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
}

impl From<&Violation> for ViolationSummary {
    fn from(v: &Violation) -> ViolationSummary {
        ViolationSummary {
            seed: v.case.to_string(),
            what: v.what.clone(),
            workload: v.case.workload.to_string(),
            lost: v.lost.iter().map(line).collect(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(f, "  seed: {}", self.case)?;
        writeln!(f, "  workload: {}", self.case.workload)?;
        for lost in &self.lost {
            writeln!(f, "  lost: {}", line(lost))?;
        }
        Ok(())
    }
}
