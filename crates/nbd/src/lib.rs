// SPDX-License-Identifier: MIT OR Apache-2.0
//! An NBD server over [`nvstack_block::BlockDevice`].
//!
//! [`proto`] is the protocol as data: headers, options and chunks to and from bytes, without I/O. The rest is the
//! server: a [`Listen`] address, a table of [`Exports`] that may change while it is served, and a [`Server`] that
//! gives each connection a thread. A connection takes what one `recv` brings, serves every whole request in it, and
//! sends all replies in one `send`; nothing is allocated for a request.
//!
//! # What a client can cost
//!
//! A connection holds one receive and one send buffer of [`PIECE`] + 4 KiB each, a list of at most 64 KiB for extents
//! once it has asked for some, and a thread's stack. That is all of it, whatever lengths the client names: a longer
//! write goes to the device in pieces as it arrives, a longer read leaves in pieces. The buffers take pages only as
//! far as they were used. [`Limits`] bounds the number of connections, and the time that a silent client is waited for.
//!
//! # What a request may be
//!
//! Offsets and lengths are whole sectors (the minimum block size that is advertised); others get `EINVAL` and move
//! nothing. Reads, writes and cache requests are at most [`MAX_REQUEST`] bytes; trim, write-zeroes and block status have
//! no payload and may be longer.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects))]

mod buffer;
mod exports;
mod handshake;
mod listen;
pub mod proto;
mod server;
mod session;
mod status;
mod stream;
mod sync;

pub use exports::Exports;
pub use listen::Listen;
pub use server::{Handle, Limits, Server, serve_connection};

/// Most bytes that go to or from a device in one call.
pub const PIECE: usize = 256 << 10;

/// Most bytes that a read, write or cache request may ask for.
pub const MAX_REQUEST: u32 = 32 << 20;

/// A length of the protocol as a length of memory. (Exact where a pointer has 32 bits or more.)
fn usize_of(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
