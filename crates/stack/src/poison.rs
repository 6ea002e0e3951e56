// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lost bytes: injected and cleared through a region, and told to whoever polls for them.

use std::sync::Arc;

use nvstack_media::{Error, Kind, Media, MediaOffset, Result};

use crate::events::Action;
use crate::model::Dev;
use crate::stack::At;

fn media(at: &At, r: u32) -> Result<Arc<dyn Media>> {
    match &at.bus.lock().region(r)?.media {
        Ok(media) => Ok(Arc::clone(media)),
        Err(cause) => Err(Error::new(Kind::NoDevice, "use region")
            .path(at.name(Dev::Region(r)))
            .because(cause.to_string())),
    }
}

/// Marks bytes of a region as lost, from `start` on, in units of 512.
pub(crate) fn inject(at: &At, r: u32, start: u64, len: u64) -> Result<()> {
    media(at, r)?.inject_poison(MediaOffset(start), len)?;
    revalidate(at, r);
    Ok(())
}

/// Heals the units of 512 bytes that lie wholly in a range of a region. Their contents are what they were.
pub(crate) fn clear(at: &At, r: u32, start: u64, len: u64) -> Result<()> {
    media(at, r)?.clear_poison(MediaOffset(start), len)?;
    revalidate(at, r);
    Ok(())
}

/// Wakes who polls the lists of bad blocks of a region and of what is on it.
pub(crate) fn revalidate(at: &At, r: u32) {
    let state = at.bus.lock();
    if state.region(r).is_err() {
        return;
    }
    let region = at.name(Dev::Region(r));
    at.inner.events.changed(&format!("{region}/badblocks"));
    for dev in crate::tree::names::devices_of_region(&state, r) {
        if let Some(disk) = crate::tree::names::disk_of(at, &state, dev) {
            at.inner.events.changed(&format!("block/{}/badblocks", disk.name));
        }
    }
    at.tell_more(&state, Action::Change, Dev::Region(r), vec![("ATTRIBUTE", "badblocks".to_owned())]);
}
