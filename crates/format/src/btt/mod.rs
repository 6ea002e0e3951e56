// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block Translation Table: info block, arena geometry, map entries, flog records (UEFI "Block Translation Table
//! (BTT) Layout", versions 1.1 and 2.0).

mod flog;
mod info;
mod layout;
mod map;

pub use flog::{FlogRecord, FlogState, Padding, detect_padding, fresh_flog, judge, next_seq};
pub use info::{INFO_LEN, Info, Rejected, SIGNATURE, Version};
pub use layout::{ARENA_MAX, ARENA_MIN, ArenaLayout, LANES, LbaSize, NFREE, Span, split};
pub use map::{MapEntry, MapState};
