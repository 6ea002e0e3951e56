// SPDX-License-Identifier: MIT OR Apache-2.0
//! The drivers that come with the model. They use nothing but the interface that is everybody's.

mod btt;
mod pages;
mod raw;
mod through;

use std::sync::Arc;

pub use btt::BttDriver;
pub use pages::PagesDriver;
pub use raw::RawDriver;

use nvstack_media::{Error, Kind};

use crate::personality::{Personality, Subject};

/// The setting by which a BTT is opened with its backup info blocks, read-only.
pub(crate) const FROM_BACKUP: &str = "from_backup";

/// btt, pfn, dax, and raw last, in the order in which Linux probes.
#[must_use]
pub fn all() -> Vec<Arc<dyn Personality>> {
    vec![
        Arc::new(BttDriver),
        Arc::new(PagesDriver::fsdax()),
        Arc::new(PagesDriver::devdax()),
        Arc::new(RawDriver),
    ]
}

/// An engine tells offsets of the namespace; what it found wrong there is told with the namespace's name.
fn on(subject: &Subject, error: Error) -> Error {
    error.path(&subject.name)
}

/// The refusal of a value that is not in a list.
fn not_in_list(operation: &'static str, what: &str, found: &str, list: &str) -> Error {
    Error::new(Kind::Invalid, operation).found(format_args!("{what} {found}")).accepted(list)
}

/// A list with the current one in brackets, and a space behind each.
fn select(values: &[u64], current: Option<u64>) -> String {
    values.iter().map(|v| if Some(*v) == current { format!("[{v}] ") } else { format!("{v} ") }).collect()
}
