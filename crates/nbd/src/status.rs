// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metadata contexts, and runs of sectors of one state.

use nvstack_block::{BlockDevice, Extent, ExtentFlags, Lba, Result};

bitflags::bitflags! {
    /// Metadata contexts. The bit is also the context's id on the wire.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Contexts: u32 {
        /// `base:allocation`: bit 0 a hole, bit 1 reads as zeros.
        const ALLOCATION = 1;
        /// `nvstack:badblocks`: bit 0 reads fail.
        const BADBLOCKS = 2;
    }
}

impl Contexts {
    /// The context's name. For a single one.
    pub(crate) fn name(self) -> &'static str {
        if self == Contexts::ALLOCATION { "base:allocation" } else { "nvstack:badblocks" }
    }

    /// The context's id. For a single one.
    pub(crate) fn id(self) -> u32 {
        self.bits()
    }

    /// The context that has this name.
    pub(crate) fn named(name: &str) -> Contexts {
        Contexts::all().iter().filter(|context| context.name() == name).collect()
    }

    /// The contexts that a query of a list means: one by its name, or all of a namespace by `namespace:`.
    pub(crate) fn matching(query: &str) -> Contexts {
        let wild = |name: &str| query.ends_with(':') && name.starts_with(query);
        Contexts::all().iter().filter(|context| context.name() == query || wild(context.name())).collect()
    }

    /// What the context says of sectors in this state. For a single one.
    pub(crate) fn status(self, state: ExtentFlags) -> u32 {
        let bit = |flag, value| if state.contains(flag) { value } else { 0 };
        if self == Contexts::ALLOCATION {
            bit(ExtentFlags::HOLE, 1) | bit(ExtentFlags::ZERO, 2)
        } else {
            bit(ExtentFlags::BAD, 1)
        }
    }
}

/// Neighbouring sectors of one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) sectors: u64,
    pub(crate) status: u32,
}

/// Runs of sectors from `at` on, at most `most` of them, together at most `sectors` long and at least one sector (if any
/// was asked for); what a device leaves untold has status 0. Neighbours differ in status.
pub(crate) fn runs(
    device: &dyn BlockDevice,
    at: Lba,
    sectors: u64,
    most: usize,
    into: &mut Vec<Run>,
    status: impl Fn(ExtentFlags) -> u32,
) -> Result<()> {
    into.clear();
    let mut left = sectors;
    device.extents(at, sectors, &mut |extent: Extent| {
        let run = Run { sectors: extent.sectors.min(left), status: status(extent.flags) };
        let full = into.len() == most;
        match into.last_mut() {
            Some(last) if last.status == run.status => {
                last.sectors = last.sectors.saturating_add(run.sectors);
            }
            _ if full => return false,
            _ if run.sectors > 0 => into.push(run),
            _ => {}
        }
        left = left.saturating_sub(run.sectors);
        left > 0
    })?;
    if into.is_empty() && sectors > 0 {
        into.push(Run { sectors, status: 0 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_find_contexts() {
        assert_eq!(Contexts::named("base:allocation"), Contexts::ALLOCATION);
        assert_eq!(Contexts::named("base:"), Contexts::empty());
        assert_eq!(Contexts::matching("base:"), Contexts::ALLOCATION);
        assert_eq!(Contexts::matching("nvstack:"), Contexts::BADBLOCKS);
        assert_eq!(Contexts::matching("nvstack:badblocks"), Contexts::BADBLOCKS);
        for nothing in ["", ":", "base", "bas", "base:alloc", "qemu:dirty-bitmap"] {
            assert_eq!(Contexts::matching(nothing), Contexts::empty(), "{nothing}");
        }
    }
}
