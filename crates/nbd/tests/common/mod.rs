// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: a device in memory that can misbehave, a server around it, and a client that encodes every
//! message by itself, byte by byte, so that a mistake in the crate's own protocol code cannot hide.
#![allow(dead_code, unused_imports, unreachable_pub)]

mod client;
mod ram;

pub use client::{Chunk, Client, EINVAL, EIO, ENOSPC, EPERM, Reply, encode};
pub use ram::Ram;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvstack_media::Result;
use nvstack_nbd::{Exports, Handle, Limits, Listen, Server};
use tempfile::TempDir;

/// A server on a unix socket, with one export named `ram`.
pub struct Bed {
    pub ram: Arc<Ram>,
    pub exports: Arc<Exports>,
    pub handle: Handle,
    pub path: PathBuf,
    pub directory: TempDir,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Limits for tests: what a user waits half a minute for, a test does not.
pub fn limits() -> Limits {
    Limits {
        connections: 128,
        handshake: Duration::from_secs(5),
        stall: Duration::from_secs(5),
        drain: Duration::from_secs(5),
    }
}

impl Bed {
    pub fn new(ram: Ram) -> Bed {
        Bed::with(ram, limits())
    }

    pub fn with(ram: Ram, limits: Limits) -> Bed {
        let ram = Arc::new(ram);
        let exports = Arc::new(Exports::new());
        exports.add("ram", "bytes in memory", ram.clone()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd.sock");
        let server = Server::bind(&Listen::Unix(path.clone()), exports.clone(), limits).unwrap();
        let handle = server.handle();
        let thread = Some(std::thread::spawn(move || server.run()));
        Bed { ram, exports, handle, path, directory, thread }
    }

    /// A connection on which nothing has been said.
    pub fn socket(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    /// A client that has been greeted.
    pub fn greeted(&self) -> Client {
        Client::greeted(self.socket())
    }

    /// A client in transmission with simple replies.
    pub fn simple(&self) -> Client {
        let mut client = self.greeted();
        client.go("ram").unwrap();
        client
    }

    /// A client in transmission with structured replies and these metadata contexts.
    pub fn structured(&self, contexts: &[&str]) -> Client {
        let mut client = self.greeted();
        client.structured_reply();
        if !contexts.is_empty() {
            client.set_meta_context("ram", contexts);
        }
        client.go("ram").unwrap();
        client
    }

    /// Stops the server and gives what `run` gave.
    pub fn stop(&mut self) -> Result<()> {
        self.handle.shutdown();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits until so many connections are left, and not for ever.
    pub fn await_connections(&self, count: usize) {
        wait_for(&format!("{count} connections"), || self.handle.connections() == count);
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.shutdown();
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.unwrap().unwrap();
            }
        }
    }
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that tell where they belong.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let word = |i: u64| (seed ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).to_le_bytes();
    (0..len as u64 / 8 + 1).flat_map(word).take(len).collect()
}
