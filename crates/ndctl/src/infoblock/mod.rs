// SPDX-License-Identifier: MIT OR Apache-2.0
//! `read-infoblock` and `write-infoblock`.

mod read;
mod write;

use nvstack_media::{Error, Kind, Result};

use crate::model::Namespace;

pub use read::{ReadInfoblock, read_infoblock_of, read_infoblocks};
pub use write::{WriteInfoblock, infoblock_template, write_infoblock};

/// Refuses a namespace that is served: what stands at its head is then somebody's data, or hidden.
fn check_disabled(n: &Namespace<'_>) -> Result<()> {
    if n.active() {
        return Err(Error::new(Kind::Busy, format!("reach the info block of {}", n.name()))
            .found("an active namespace")
            .accepted("a disabled one"));
    }
    if n.size() == 0 {
        return Err(Error::new(Kind::Gone, format!("reach the info block of {}", n.name())).found("no size"));
    }
    Ok(())
}
