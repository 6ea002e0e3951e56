// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest is told about its DIMMs: which there are, which ranges of memory they make up, and how they share one.

use serde::{Deserialize, Serialize};

use crate::report::{Result, ensure};

/// A set of DIMMs and their address ranges, as firmware describes them in the NFIT. All sizes and addresses are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lab {
    pub(crate) dimms: Vec<Dimm>,
    pub(crate) ranges: Vec<Range>,
    /// Bits of the platform capabilities structure (0: CPU caches are flushed on power loss, 1: the memory controller is);
    /// none for a platform that has no such structure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) capabilities: Option<u32>,
    /// Whether QEMU's own tables are replaced by these; without, this says what QEMU's tables say.
    pub(crate) replaced: bool,
}

/// A DIMM: a memory-device handle and its control region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dimm {
    /// QEMU's methods know the DIMM in slot n by the handle n + 1.
    pub(crate) handle: u32,
    pub(crate) phys_id: u16,
    pub(crate) size: u64,
    /// 0 for none.
    pub(crate) label_size: u64,
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) revision: u16,
    pub(crate) serial: u32,
    /// Manufacturing date and location, where the control region says that they are valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<Made>,
    /// Format interface code.
    pub(crate) format: u16,
}

/// When and where a DIMM was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) date: u16,
    pub(crate) location: u8,
}

/// A system physical address range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) index: u16,
    pub(crate) address: u64,
    pub(crate) size: u64,
    /// Bytes that lie on one DIMM before the next one's turn comes.
    pub(crate) line_size: u32,
    pub(crate) members: Vec<Member>,
}

/// A DIMM's part in a range, which is as large as any other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) handle: u32,
    /// Region id within the DIMM.
    pub(crate) region_id: u16,
    /// Region offset: where the DIMM's first line is in the range. It orders the DIMMs.
    pub(crate) offset: u64,
    /// Where the part starts on the DIMM.
    pub(crate) dpa: u64,
}

impl Range {
    /// Bytes on each DIMM.
    pub(crate) fn share(&self) -> u64 {
        self.size / (self.members.len() as u64).max(1)
    }
}

impl Lab {
    /// The DIMM with this handle.
    pub(crate) fn dimm(&self, handle: u32) -> Result<&Dimm> {
        self.dimms
            .iter()
            .find(|dimm| dimm.handle == handle)
            .ok_or_else(|| format!("no DIMM has the handle {handle:#x}").into())
    }

    /// Fails unless the ranges divide among DIMMs that exist and are large enough, and lines come in turn.
    pub(crate) fn check(&self) -> Result<()> {
        for Range { index, size, line_size, members, .. } in &self.ranges {
            let ways = members.len() as u64;
            let line = u64::from(*line_size);
            ensure(ways > 0 && line > 0 && size.is_multiple_of(ways * line), || {
                format!("range {index}: {size} bytes are no lines of {line} bytes on {ways} DIMMs each")
            })?;
            for (turn, member) in (0..).zip(members) {
                let room = self.dimm(member.handle)?.size;
                let end = member.dpa + size / ways;
                ensure(end <= room, || {
                    format!("range {index} ends at {end} on DIMM {:#x} of {room} bytes", member.handle)
                })?;
                ensure(member.offset == turn * line, || {
                    format!("range {index}: DIMM {:#x} starts at {}", member.handle, member.offset)
                })?;
            }
        }
        Ok(())
    }
}
