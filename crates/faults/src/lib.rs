// SPDX-License-Identifier: MIT OR Apache-2.0
//! For tests: faults from outside.
//!
//! * [`Faults`] is a schedule: which call of a kind fails, or takes long, and how far a failed call went. It is shared between
//!   the test and whatever asks it, and counts all calls.
//! * [`Faulty`] is a medium that asks it before each access. It can keep a *shadow*: what is surely durable, and every image that
//!   a power cut could leave, so that "a success covers what it says" is judged by somebody else than the code under test.
//! * `FaultyFs` is a file system (FUSE, on Linux) that does so: for programs that map files.
//! * [`every`] runs a test for the first call that fails, the second, and so on, until there is none more.
//!
//! ```
//! use nvstack_faults::{Calls, Faults, Faulty, When};
//! use nvstack_media::{Anon, Media, MediaOffset};
//!
//! let faults = Faults::new();
//! let media = Faulty::new(Anon::new(4096)?, &faults);
//! faults.fail(Calls::DRAIN, When::Nth(2));
//! media.drain()?;
//! assert!(media.drain().is_err());
//! assert_eq!((faults.count(Calls::DRAIN), faults.hits()), (2, 1));
//! # Ok::<(), nvstack_media::Error>(())
//! ```
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
mod fs;
mod medium;
mod schedule;

#[cfg(target_os = "linux")]
pub use fs::FaultyFs;
pub use medium::Faulty;
pub use schedule::{Calls, Fault, Faults, Hit, Moved, Rule, When, every};
