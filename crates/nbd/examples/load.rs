// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps so many 4 KiB requests in flight and counts them. It does as little as a client can, so that what it shows
//! is the server:
//!
//! ```sh
//! cargo run --release -p nvstack-nbd --example load -- /tmp/ram.sock read 16 3
//! ```

use std::io::{Error, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const LENGTH: [u8; 4] = 4096u32.to_be_bytes();
const SIMPLE_REPLY: usize = 16;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, what, depth, seconds] = &arguments[..] else {
        return Err(Error::other("load SOCKET read|write DEPTH SECONDS"));
    };
    let number = |text: &str| text.parse::<u64>().map_err(Error::other);
    let (write, depth, time): (bool, usize, _) =
        (what == "write", depth.parse().map_err(Error::other)?, Duration::from_secs(number(seconds)?));

    let mut socket = UnixStream::connect(path)?;
    let blocks = negotiate(&mut socket)? / BLOCK as u64;
    let reply = SIMPLE_REPLY + if write { 0 } else { BLOCK };
    let (mut requests, mut replies) = (Vec::new(), vec![0; reply * depth.max(64)]);
    let (mut random, mut in_flight, mut part, mut count) = (0x9e37_79b9_7f4a_7c15u64, 0, 0, 0u64);
    let began = Instant::now();
    loop {
        requests.clear();
        let time_left = began.elapsed() < time;
        while time_left && in_flight < depth {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            requests.extend(0x2560_9513u32.to_be_bytes());
            requests.extend([0, 0, 0, u8::from(write)]);
            requests.extend(random.to_be_bytes());
            requests.extend((random % blocks * BLOCK as u64).to_be_bytes());
            requests.extend(LENGTH);
            if write {
                requests.resize(requests.len() + BLOCK, 0x5a);
            }
            in_flight += 1;
        }
        if in_flight == 0 {
            break;
        }
        socket.write_all(&requests)?;
        // Whole replies free places; what is left of the last one stays.
        let got = socket.read(&mut replies[part..])? + part;
        if got == part {
            return Err(Error::other("the server has ended the connection"));
        }
        let whole = got / reply;
        for reply in replies[..whole * reply].chunks_exact(reply) {
            if reply[..8] != [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0] {
                return Err(Error::other("a reply that is none, or an error"));
            }
        }
        replies.copy_within(whole * reply..got, 0);
        part = got % reply;
        in_flight -= whole;
        count += whole as u64;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    let disconnect = [&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2][..], &[0; 20]].concat();
    socket.write_all(&disconnect)?;
    println!("{what} depth {depth}: {rate:.0} requests/s, {:.2} us each", 1e6 / rate);
    Ok(())
}

/// Chooses the default export with simple replies, and tells its size.
fn negotiate(socket: &mut UnixStream) -> Result<u64> {
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    socket.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0")?;
    let mut export = [0; 10];
    socket.read_exact(&mut export)?;
    Ok(u64::from_be_bytes([
        export[0], export[1], export[2], export[3], export[4], export[5], export[6], export[7],
    ]))
}
