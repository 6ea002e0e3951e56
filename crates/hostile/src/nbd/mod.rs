// SPDX-License-Identifier: MIT OR Apache-2.0
//! An NBD client that says anything.

mod replies;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nvstack_block::Linear;
use nvstack_media::{Media, MediaOffset};
use nvstack_nbd::{Exports, Limits, serve_connection};

use crate::{Input, Sparse};

/// Bytes of the export.
const SIZE: u64 = 64 << 10;

/// What clients say.
pub(crate) const WORDS: &[&str] = &[
    "IHAVEOPT\0\0\0",
    "\0\0\0\x03ram",
    "base:allocation",
    "nvstack:badblocks",
    "base:",
    "nvstack:",
    "\0\0\0\0",
];

/// Everything that a client says, to the last byte, and then it waits for the end.
fn converse(said: &[u8], medium: &Sparse) -> Vec<u8> {
    let exports = Exports::new();
    let device = Linear::new("ram", medium.clone(), 512, false).expect("a device");
    exports.add("ram", "bytes in memory", Arc::new(device)).expect("a name");
    let (mut client, server) = UnixStream::pair().expect("sockets");
    let limits = Limits {
        handshake: Duration::from_secs(5),
        stall: Duration::from_secs(5),
        drain: Duration::from_secs(5),
        ..Limits::default()
    };
    std::thread::scope(|scope| {
        let mut listener = client.try_clone().expect("a socket");
        let heard = scope.spawn(move || {
            let mut heard = Vec::new();
            // A server that is gone with bytes unread resets the connection; what it said came before.
            let mut piece = [0; 1 << 16];
            while let Ok(n @ 1..) = listener.read(&mut piece) {
                heard.extend_from_slice(&piece[..n]);
            }
            heard
        });
        scope.spawn(move || {
            // A server may hang up in the middle.
            let _ = client.write_all(said);
            let _ = client.shutdown(std::net::Shutdown::Write);
        });
        serve_connection(server, &exports, &limits);
        heard.join().expect("a reader")
    })
}

/// Anything that a client may say from its first byte on: it ends, and every answer is one.
pub fn nbd_handshake(data: &[u8]) {
    let said = &data[..data.len().min(4096)];
    let medium = Sparse::new(SIZE);
    replies::check(said, &converse(said, &medium), SIZE);
}

/// Requests, after a handshake that went well.
///
/// Input: how it went (1: structured replies, 2: with contexts, 4: lost bytes, 8: holes), then requests: kind, flags, sector, sectors
/// (or numbers that are none), for a write how much of its payload comes; or bytes that are none.
pub fn nbd_transmission(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let medium = Sparse::new(SIZE);
    if how & 4 != 0 {
        medium.inject_poison(MediaOffset(3 * 512), 1024).expect("a place");
    }
    if how & 8 == 0 {
        medium.poke(8192, &[0xee; 9000]);
    }
    let mut said = 3u32.to_be_bytes().to_vec();
    if how & 1 != 0 {
        said.extend_from_slice(b"IHAVEOPT\0\0\0\x08\0\0\0\0");
    }
    if how & 3 == 3 {
        let mut query =
            b"\0\0\0\x03ram\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x11nvstack:badblocks".to_vec();
        said.extend_from_slice(b"IHAVEOPT\0\0\0\x0a");
        said.extend_from_slice(&(query.len() as u32).to_be_bytes());
        said.append(&mut query);
    }
    said.extend_from_slice(b"IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x03ram\0\0");
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        request(&mut input, &mut said);
    }
    replies::check(&said, &converse(&said, &medium), SIZE);
}

fn request(input: &mut Input<'_>, said: &mut Vec<u8>) {
    let what = input.u8();
    if what == 0xff {
        let len = usize::from(input.u8());
        said.extend_from_slice(input.take(len));
        return;
    }
    let command = u16::from(what % 10);
    let flags = if what & 64 == 0 { u16::from(input.u8() & 31) } else { input.u16() };
    let (offset, len) = if what & 128 == 0 {
        (input.below(140) * 512, input.below(40) as u32 * 512)
    } else {
        (input.number(), input.number() as u32)
    };
    said.extend_from_slice(&0x2560_9513u32.to_be_bytes());
    said.extend_from_slice(&flags.to_be_bytes());
    said.extend_from_slice(&command.to_be_bytes());
    said.extend_from_slice(&(said.len() as u64).to_be_bytes());
    said.extend_from_slice(&offset.to_be_bytes());
    said.extend_from_slice(&len.to_be_bytes());
    if command == 1 {
        // All of it, mostly; a lie otherwise.
        let sent = if what & 32 == 0 { len } else { input.number() as u32 };
        said.resize(said.len() + sent.min(64 << 10) as usize, what);
    }
}
