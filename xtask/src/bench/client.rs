// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bare NBD client that keeps a number of requests in flight: libnbd's own cost would hide the servers' differences.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::report::{Context, Result, ensure};

const BLOCK: usize = 4096;
const LENGTH: u32 = 4096;
const REQUEST: u32 = 0x2560_9513;

/// A connection in transmission.
pub(crate) struct Client {
    stream: UnixStream,
    blocks: u64,
    state: u64,
}

impl Client {
    /// Connects to the default export, by the plainest handshake there is.
    pub(crate) fn connect(socket: &Path) -> Result<Client> {
        let started = Instant::now();
        let mut stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if started.elapsed() < Duration::from_secs(20) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error).context(socket.display()),
            }
        };
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).context("greeting")?;
        ensure(greeting.starts_with(b"NBDMAGICIHAVEOPT"), || "not a newstyle server".to_owned())?;
        // Fixed newstyle without zeroes; EXPORT_NAME with the empty name.
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend(b"IHAVEOPT");
        hello.extend(1u32.to_be_bytes());
        hello.extend(0u32.to_be_bytes());
        stream.write_all(&hello).context("option")?;
        let mut export = [0; 10];
        stream.read_exact(&mut export).context("export")?;
        let size = export.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Ok(Client { stream, blocks: size / BLOCK as u64, state: 7 })
    }

    fn offset(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 20) % self.blocks * BLOCK as u64
    }

    fn request(&mut self, write: bool, out: &mut Vec<u8>) {
        out.extend(REQUEST.to_be_bytes());
        out.extend([0, 0, 0, u8::from(write)]);
        out.extend(0u64.to_be_bytes());
        let offset = self.offset();
        out.extend(offset.to_be_bytes());
        out.extend(LENGTH.to_be_bytes());
        if write {
            out.resize(out.len() + BLOCK, 0x5a);
        }
    }

    /// Requests per second over a time, with `depth` in flight.
    pub(crate) fn rate(&mut self, write: bool, depth: usize, time: Duration) -> Result<f64> {
        let reply = if write { 16 } else { 16 + BLOCK };
        let mut out = Vec::new();
        for _ in 0..depth {
            self.request(write, &mut out);
        }
        let start = Instant::now();
        self.stream.write_all(&out).context("send")?;
        let mut buffer = vec![0; 64 * (16 + BLOCK)];
        let (mut held, mut done, mut in_flight) = (0, 0u64, depth);
        while in_flight > 0 {
            let free = buffer.get_mut(held..).unwrap_or_default();
            let got = self.stream.read(free).context("receive")?;
            ensure(got > 0, || "the server went away".to_owned())?;
            held += got;
            let replies = held / reply;
            for i in 0..replies {
                // Magic, then error 0.
                let ok = buffer.get(i * reply..i * reply + 8) == Some(&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
                ensure(ok, || format!("reply {:?}", buffer.get(i * reply..i * reply + 16)))?;
            }
            buffer.copy_within(replies * reply..held, 0);
            held -= replies * reply;
            done += replies as u64;
            in_flight -= replies;
            if start.elapsed() < time {
                out.clear();
                for _ in 0..replies {
                    self.request(write, &mut out);
                }
                in_flight += replies;
                self.stream.write_all(&out).context("send")?;
            }
        }
        Ok(done as f64 / start.elapsed().as_secs_f64())
    }
}
