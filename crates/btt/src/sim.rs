// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the power-cut simulator reaches, and nobody else: arenas too small for the format, the place where a task waits,
//! and what can be left out of the protocol.

use nvstack_format::btt::{ARENA_MIN, ArenaLayout, Info, LbaSize};
use nvstack_media::{Media, Result};
use uuid::Uuid;

pub use crate::mutants::Mutant;
#[cfg(feature = "mutants")]
pub use crate::mutants::leave_out;
pub use crate::step::hook::{Hook, hold};
use crate::{Btt, OpenOptions};

/// Leaves a part of the protocol out on this thread, or none. Without the feature `mutants` nothing is.
#[cfg(not(feature = "mutants"))]
pub const fn leave_out(_: Option<Mutant>) {}

/// Whether parts of the protocol can be left out at all.
pub const MUTANTS: bool = cfg!(feature = "mutants");

/// The shape of an arena that the format would refuse: no info blocks, and a few sectors and lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Small {
    /// Sectors served.
    pub sectors: u32,
    /// Lanes, each with a spare block.
    pub lanes: u32,
    /// Map and flog each begin on a multiple of this, in bytes: 64 for lines, 4096 for pages.
    pub align: u64,
}

impl Small {
    /// Its geometry, with sectors of 512 bytes. Data begins at 0.
    pub fn layout(&self) -> Result<ArenaLayout> {
        let found = LbaSize::new(512).and_then(|lbasize| ArenaLayout::compute(ARENA_MIN, lbasize, 0));
        let mut layout = found.map_err(|finding| {
            nvstack_media::Error::invalid(
                nvstack_media::Kind::Invalid,
                "shape a small arena",
                nvstack_media::MediaOffset(0),
                finding,
            )
        })?;
        let align = self.align.max(64);
        layout.external_nlba = self.sectors;
        layout.nfree = self.lanes;
        layout.internal_nlba = self.sectors.saturating_add(self.lanes);
        layout.dataoff = 0;
        layout.mapoff = u64::from(layout.internal_nlba).saturating_mul(512).next_multiple_of(align);
        let map_len = u64::from(self.sectors).saturating_mul(4);
        layout.logoff = layout.mapoff.saturating_add(map_len).next_multiple_of(align);
        let flog_len = u64::from(self.lanes).saturating_mul(64);
        layout.info2off = layout.logoff.saturating_add(flog_len).next_multiple_of(align);
        layout.size = layout.info2off;
        Ok(layout)
    }
}

/// Attaches to an arena of that shape, whose map and flog lie on the medium already: everything of [`Btt::open`] but
/// the info blocks.
pub fn open<M: Media>(media: M, options: OpenOptions, shape: &Small) -> Result<Btt<M>> {
    let info = Info {
        uuid: Uuid::nil(),
        parent: options.parent,
        flags: 0,
        version: options.version,
        layout: shape.layout()?,
    };
    let read_only = options.read_only || media.read_only();
    crate::open::attach(media, options, vec![info], read_only)
}
