// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory: of this process alone, and ranges of RAM with labels at their end.

use std::sync::Arc;

use nvstack_format::Cookies;
use nvstack_media::{Anon, Error, Kind, Media, MediaOffset, Part, Result};

use super::{LABEL_AREA, QEMU_START};
use crate::spec::{BusSpec, DimmSpec, Idle, Provider, RegionSpec};

/// The cookie of a range of RAM, whatever DIMMs are under it.
const RAM_COOKIE: u64 = 0xcafe_beef_cafe_beef;

/// Memory of this process as one range without labels, as `memmap=` gives it. Gone with the process.
pub fn memory(size: u64) -> Result<BusSpec> {
    let media: Arc<dyn Media> = Arc::new(Anon::new(size)?);
    Ok(BusSpec {
        provider: Provider::Platform("e820".to_owned()),
        dimms: Vec::new(),
        regions: vec![RegionSpec { target_node: None, ..RegionSpec::of_range(media, QEMU_START) }],
        idle: Idle::default(),
    })
}

/// A range of RAM with a label area in its last 128 KiB (`ramdax`): it can be cut into namespaces.
pub fn ram(range: Arc<dyn Media>, start: u64) -> Result<BusSpec> {
    let len = range.len();
    let size = len.saturating_sub(LABEL_AREA) / 4096 * 4096;
    if size == 0 {
        return Err(Error::new(Kind::Invalid, "open range")
            .path(range.name())
            .found(format_args!("{len} bytes"))
            .accepted(format_args!("more than the {LABEL_AREA} of its label area")));
    }
    let memory: Arc<dyn Media> = Arc::new(Part::new(Arc::clone(&range), MediaOffset(0), size)?);
    let labels: Arc<dyn Media> =
        Arc::new(Part::new(range, MediaOffset(len.saturating_sub(LABEL_AREA)), LABEL_AREA)?);
    let cookies = Cookies { v1_1: RAM_COOKIE, v1_2: RAM_COOKIE, alternative: RAM_COOKIE };
    Ok(BusSpec {
        provider: Provider::Platform("ramdax".to_owned()),
        dimms: vec![DimmSpec { identity: None, labels: Some(labels), fault: None }],
        regions: vec![RegionSpec { range_index: None, ..RegionSpec::of_dimm(0, memory, start, cookies) }],
        idle: Idle::default(),
    })
}
