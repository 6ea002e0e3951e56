// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is told of labels that are not used, or not used as they stand.

use std::fmt;

use nvstack_format::Invalid;
use nvstack_media::{Error, Kind};
use uuid::Uuid;

/// Something about a label, or a missing one, that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The DIMM: its number among the mappings of the region, from 0.
    pub dimm: usize,
    /// The slot on that DIMM; none where a label is missing.
    pub slot: Option<u32>,
    /// The namespace, where a label tells it. For a label that stands in for that of another namespace, the latter.
    pub uuid: Option<Uuid>,
    /// What it means for the namespace.
    pub kind: FindingKind,
    /// The field, what it holds, and what it should.
    pub detail: Invalid,
}

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// A slot in use without a valid label. Linux drops it without a word.
    BadSlot,
    /// A label that cannot be a part of a namespace of this region. Its bytes stay reserved.
    BadLabel,
    /// A label of another interleave set, or of DIMMs that were swapped. Its bytes stay reserved.
    Foreign,
    /// Another label of the DIMM claims some of the same bytes. Neither is used.
    Overlap,
    /// Another label of the DIMM claims to be the same part of the same namespace. Neither is used.
    Duplicate,
    /// This DIMM has no label of the namespace while others have one, all of them UPDATING: its creation was cut. It does
    /// not exist until it is settled.
    HalfCreated,
    /// This DIMM has no label of the namespace while others have one: its deletion was cut, or the label was lost. It does
    /// not exist until it is settled.
    Missing,
    /// An update was cut. The namespace is whole all the same, as its label at position 0 has it; settling ends the update.
    HalfWay,
    /// The labels of a namespace disagree about its place and no cut explains it. It is not used.
    Disagree,
}

impl FindingKind {
    /// Whether the namespace is used all the same.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, FindingKind::HalfWay)
    }
}

impl fmt::Display for Finding {
    /// "DIMM 1, slot 3: label: rawsize at byte 112: found 0, accepted ..."
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DIMM {}", self.dimm)?;
        if let Some(slot) = self.slot {
            write!(f, ", slot {slot}")?;
        }
        if let Some(uuid) = self.uuid {
            write!(f, ", namespace {uuid}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl From<&Finding> for Error {
    /// [`Kind::Corrupt`], with all that the finding tells.
    fn from(finding: &Finding) -> Error {
        let place = match finding.slot {
            Some(slot) => format!("use label in slot {slot} of DIMM {}", finding.dimm),
            None => format!("look for a label on DIMM {}", finding.dimm),
        };
        Error::new(Kind::Corrupt, place).because(finding.detail.clone())
    }
}
