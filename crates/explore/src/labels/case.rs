// SPDX-License-Identifier: MIT OR Apache-2.0
//! One failure, in a line that says how to see it again.

use std::fmt;
use std::str::FromStr;

use nvstack_label_sim::sim::Mutant;
use nvstack_media::{Error, Kind};
use nvstack_sim::{Lost, Model};

use super::workload::Workload;
use crate::share::line;

/// A moment of a workload, and the images that a cut then leaves. Its text is the seed that a person types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The model.
    pub model: Model,
    /// What was left out.
    pub mutant: Option<Mutant>,
    /// The changes.
    pub workload: Workload,
    /// Operations on the media before the cut; for damages, the number of the damage.
    pub moment: u64,
    /// Which image of each DIMM.
    pub choices: Vec<Vec<u16>>,
}

/// The mutant of a name.
#[must_use]
pub fn mutant(name: &str) -> Option<Mutant> {
    Mutant::ALL.iter().copied().find(|m| m.name() == name)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mutant = self.mutant.map_or("none", Mutant::name);
        let one = |choice: &Vec<u16>| choice.iter().map(u16::to_string).collect::<Vec<_>>().join(".");
        let choices: Vec<String> = self.choices.iter().map(one).collect();
        write!(f, "labels;{};{mutant};{};{};{}", self.model, self.workload, self.moment, choices.join("/"))
    }
}

impl FromStr for Case {
    type Err = Error;

    fn from_str(text: &str) -> Result<Case, Error> {
        let wrong = || {
            Error::new(Kind::Invalid, "read seed")
                .found(format_args!("{text:?}"))
                .accepted("labels;MODEL;MUTANT;WORKLOAD;MOMENT;IMAGES, as a failure shows it")
        };
        let parts: Vec<&str> = text.split(';').collect();
        let ["labels", model, name, workload, moment, choices] = *parts.as_slice() else {
            return Err(wrong());
        };
        let mutant = match name {
            "none" => None,
            name => Some(mutant(name).ok_or_else(wrong)?),
        };
        let one = |choice: &str| choice.split('.').filter(|d| !d.is_empty()).map(str::parse).collect();
        let choices: Result<Vec<Vec<u16>>, _> = choices.split('/').map(one).collect();
        Ok(Case {
            model: model.parse()?,
            mutant,
            workload: workload.parse()?,
            moment: moment.parse().map_err(|_| wrong())?,
            choices: choices.map_err(|_| wrong())?,
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
    /// The stores that the images do not have, with the DIMM of each.
    pub lost: Vec<(usize, Lost)>,
    /// Moments of its workload that were looked at before it was found.
    pub states: u64,
}

impl Violation {
    /// The lost stores as text: DIMM, offset, value, and source line.
    #[must_use]
    pub fn lost_stores(&self) -> Vec<String> {
        let line = |(dimm, lost): &(usize, Lost)| format!("DIMM {dimm}: {}", line(lost));
        self.lost.iter().map(line).collect()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(f, "  seed: {}", self.case)?;
        writeln!(f, "  workload: {}", self.case.workload)?;
        for line in self.lost_stores() {
            writeln!(f, "  lost: {line}")?;
        }
        Ok(())
    }
}
