// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that take and give a few bytes at a time, peers that reset, buffers that are full, devices that fail at each of their
//! calls. Nobody but who has the fault notices, and no success covers what was lost.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod common;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Client, Ram, encode, limits, pattern, wait_for};
use nvstack_block::{BlockDevice, Linear};
use nvstack_faults::{Calls, Faults, Faulty, Moved, Rule, When, every};
use nvstack_media::{Media, Result};
use nvstack_nbd::{Exports, Handle, Limits, Listen, Server};
use nvstack_sim::{Image, Model, SimMedium};
use nvstack_tally::tally;
use rustix::net::sockopt;

/// A server on TCP or on a unix socket, with one export named `ram`.
struct Serving {
    address: Address,
    handle: Handle,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
    _folder: tempfile::TempDir,
}

enum Address {
    Tcp(String),
    Unix(std::path::PathBuf),
}

impl Serving {
    fn new(device: Arc<dyn BlockDevice>, tcp: bool, limits: Limits) -> Serving {
        let folder = tempfile::tempdir().unwrap();
        let exports = Arc::new(Exports::new());
        exports.add("ram", "bytes in memory", device).unwrap();
        let path = folder.path().join("nbd.sock");
        let listen = if tcp { Listen::Tcp { host: None, port: 0 } } else { Listen::Unix(path.clone()) };
        let server = Server::bind(&listen, exports, limits).unwrap();
        let uri = server.uri("ram");
        let address = match uri.strip_prefix("nbd://") {
            Some(rest) => Address::Tcp(rest.split('/').next().unwrap().to_owned()),
            None => Address::Unix(path),
        };
        let handle = server.handle();
        let thread = Some(std::thread::spawn(move || server.run()));
        Serving { address, handle, thread, _folder: folder }
    }

    fn socket(&self) -> Socket {
        let time = Some(Duration::from_secs(30));
        match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(time).unwrap();
                stream.set_write_timeout(time).unwrap();
                Socket::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(time).unwrap();
                stream.set_write_timeout(time).unwrap();
                Socket::Unix(stream)
            }
        }
    }

    fn client(&self) -> Client<Socket> {
        let mut client = Client::greeted(self.socket());
        client.go("ram").unwrap();
        client
    }

    fn stop(&mut self) -> Result<()> {
        self.handle.shutdown();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.stop();
        }
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Room for little: the server's sends end half-way. Over TCP not as little as can be, since who closes its window is probed
    /// only now and then.
    fn narrow(self) -> Socket {
        match &self {
            Socket::Tcp(s) => {
                sockopt::set_socket_recv_buffer_size(s, 32 << 10).unwrap();
                s.set_nodelay(true).unwrap();
            }
            Socket::Unix(s) => {
                sockopt::set_socket_recv_buffer_size(s, 1).unwrap();
                sockopt::set_socket_send_buffer_size(s, 1).unwrap();
            }
        }
        self
    }

    /// Ends it with a reset where there is such a thing: what is on its way is thrown away.
    fn reset(self) {
        if let Socket::Tcp(s) = &self {
            sockopt::set_socket_linger(s, Some(Duration::ZERO)).unwrap();
        }
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.read(into),
            Socket::Unix(s) => s.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.write(from),
            Socket::Unix(s) => s.write(from),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket that moves a few bytes at a time, now one, now some.
struct Trickle {
    socket: Socket,
    step: usize,
}

impl Trickle {
    fn next(&mut self) -> usize {
        self.step += 1;
        [1, 3, 1, 27, 1, 2, 997, 28, 1, 16384][self.step % 10]
    }
}

impl Read for Trickle {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.next().min(into.len());
        self.socket.read(&mut into[..len])
    }
}

impl Write for Trickle {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let len = self.next().min(from.len());
        self.socket.write(&from[..len])
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn bytes_that_come_and_go_a_few_at_a_time_are_the_same() {
    for tcp in [true, false] {
        let serving = Serving::new(Arc::new(Ram::new(512, 4096)), tcp, limits());
        for structured in [false, true] {
            let mut client = Client::greeted(Trickle { socket: serving.socket().narrow(), step: 0 });
            if structured {
                client.structured_reply();
            }
            client.go("ram").unwrap();
            for (n, len) in [4096usize, 8192, 65536, 70 << 12].into_iter().enumerate() {
                let data = pattern(n as u64, len);
                assert_eq!(client.write(if n % 2 == 0 { 0 } else { 1 }, 4096 * n as u64, &data), 0);
                assert_eq!(client.read(4096 * n as u64, len as u32), Ok(data), "{tcp} {structured} {len}");
                assert_eq!(client.flush(), 0);
            }
            // An error between them leaves the stream where it should be.
            assert!(client.read(1 << 40, 4096).is_err());
            assert_eq!(client.write(0, 1 << 40, &pattern(9, 5 << 12)), 28);
            assert_eq!(client.flush(), 0);
        }
    }
}

/// A connection's whole talk: negotiation, writes, reads, flushes.
fn talk() -> (usize, Vec<u8>) {
    let mut all = 3u32.to_be_bytes().to_vec();
    all.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x03ram\0\0");
    let negotiated = all.len();
    for n in 0..6u64 {
        all.extend(encode(1, 0, n * 3, n * 8192, 8192));
        all.extend(pattern(n, 8192));
        all.extend(encode(0, 0, n * 3 + 1, n * 8192, 8192));
        all.extend(encode(3, 0, n * 3 + 2, 0, 0));
    }
    (negotiated, all)
}

#[test]
fn a_peer_that_resets_at_any_byte_leaves_nothing_behind() {
    let (negotiated, all) = talk();
    let mut cuts: Vec<usize> =
        (0..negotiated + 60).chain((negotiated + 60..all.len()).step_by(397)).collect();
    cuts.push(all.len());
    let mut resets = 0;
    for tcp in [true, false] {
        let ram = Arc::new(Ram::new(64, 4096));
        let limits = Limits { connections: 10_000, ..limits() };
        let mut serving = Serving::new(Arc::clone(&ram) as Arc<dyn BlockDevice>, tcp, limits);
        let mut other = serving.client();
        for (n, cut) in cuts.iter().enumerate() {
            let mut socket = serving.socket();
            // A server that has hung up on what it took for nonsense is none of these.
            socket.write_all(&all[..*cut]).unwrap();
            if n % 3 == 1 {
                // Some of the answers first.
                let mut some = vec![0; 18 + n % 50];
                socket.read_exact(&mut some[..18]).unwrap();
            }
            socket.reset();
            resets += 1;
            if n % 16 == 0 {
                let data = pattern(n as u64, 4096);
                assert_eq!(other.write(1, 50 * 4096, &data), 0);
                assert_eq!(other.read(50 * 4096, 4096), Ok(data));
            }
        }
        // Clients are taken in their order: once this one is served, all have been taken.
        drop(serving.client());
        wait_for("the resets to end", || serving.handle.connections() <= 1);
        // What was written was written whole.
        let data = ram.state().data.clone();
        for n in 0..6u64 {
            let found = &data[n as usize * 8192..][..8192];
            assert!(found == pattern(n, 8192) || found.iter().all(|b| *b == 0), "{tcp}: write {n}");
        }
        assert_eq!(other.flush(), 0);
        drop(other);
        serving.stop().unwrap();
        drop(serving);
        assert_eq!(Arc::strong_count(&ram), 1, "a device is still held");
    }
    tally("faults", "NBD connections", "resets at a byte", resets);
}

#[test]
fn who_reads_late_gets_all_of_it_and_keeps_nobody_waiting() {
    for tcp in [true, false] {
        let serving = Serving::new(Arc::new(Ram::new(2048, 4096)), tcp, limits());
        let mut writer = serving.client();
        let data = pattern(5, 4 << 20);
        assert_eq!(writer.write(0, 0, &data), 0);
        let mut late = Client::greeted(serving.socket());
        late.go("ram").unwrap();
        // More than any buffer holds; the requests fit one.
        let cookies: Vec<u64> = (0..6).map(|_| late.request(0, 0, 0, 4 << 20)).collect();
        let began = Instant::now();
        for n in 0..100 {
            assert_eq!(writer.write(0, 1500 * 4096, &pattern(n, 4096)), 0);
            assert_eq!(writer.read(0, 4096).unwrap(), data[..4096]);
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{tcp}");
        std::thread::sleep(Duration::from_millis(300));
        for cookie in cookies {
            assert_eq!(late.status(cookie), 0, "{tcp}");
            assert!(late.bytes(4 << 20) == data, "{tcp}");
        }
        assert_eq!(late.flush(), 0);
    }
}

/// Media that fail below an export: what is acknowledged is there, and what a flush acknowledged is durable.
#[test]
fn a_failed_flush_is_never_followed_by_a_success_that_covers_it() {
    let mut runs = 0;
    for model in [Model::X86, Model::Pages] {
        for moved in [Moved::Nothing, Moved::All] {
            for step in [When::Nth as fn(u64) -> When, When::Every] {
                runs += every(|n| {
                    let faults = Faults::new();
                    let media =
                        Arc::new(Faulty::<SimMedium>::simulated(Image::zeros(1 << 20), &faults, model));
                    let inner: Arc<dyn Media> = Arc::clone(&media) as Arc<dyn Media>;
                    let device = Linear::new("ram", inner, 512, false).unwrap();
                    let mut serving = Serving::new(Arc::new(device), false, limits());
                    let mut client = serving.client();
                    faults.add(Rule::new(Calls::MEDIUM, step(n)).moved(moved));
                    let words = format!("{model}, call {n}, moved {moved:?}");
                    let mut acknowledged: Vec<Option<Vec<u8>>> = vec![None; 8];
                    for round in 0..4u64 {
                        for sector in 0..8u64 {
                            let data = pattern(round * 8 + sector, 512);
                            let flags = u16::from(sector == 3);
                            let fua = client.write(flags, sector * 512, &data);
                            // Old or new or half of either: nothing is promised of it until it is written again.
                            acknowledged[sector as usize] = (fua == 0).then_some(data.clone());
                            if fua == 0 && flags == 1 {
                                covered(&media, sector, &data, &words);
                            }
                        }
                        if client.flush() == 0 {
                            for (sector, data) in (0..).zip(&acknowledged) {
                                if let Some(data) = data {
                                    covered(&media, sector, data, &words);
                                }
                            }
                        }
                    }
                    for (sector, data) in (0..).zip(&acknowledged) {
                        if let (Some(data), Ok(found)) = (data, client.read(sector * 512, 512)) {
                            assert!(found == *data, "{words}: sector {sector} as it is read");
                        }
                    }
                    drop(client);
                    let hit = faults.hits() > 0;
                    faults.clear();
                    // The last flush of a page cache whose failure is final fails, and is told.
                    let failed = faults.last().is_some_and(|hit| hit.call == Calls::DRAIN);
                    let stopped = serving.stop();
                    if model == Model::X86 {
                        stopped.unwrap();
                    } else if failed && step(2) == When::Nth(2) {
                        assert!(stopped.is_err(), "{words}");
                    }
                    if hit { faults } else { Faults::new() }
                });
            }
        }
    }
    assert!(runs > 300, "{runs}");
    tally("faults", "NBD exports over failing media", "calls that failed, once or every time", runs);
}

/// A sector that is said to be durable is.
fn covered(media: &Faulty<SimMedium>, sector: u64, data: &[u8], words: &str) {
    let mut found = vec![0; 512];
    media.durable().unwrap().read(sector * 512, &mut found);
    assert!(found == data, "{words}: sector {sector} is said to be durable, and is not");
}
