// SPDX-License-Identifier: MIT OR Apache-2.0
//! The server: accepts, gives each connection a thread, and ends in an orderly way.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nvstack_media::{Error, Kind, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::buffer::{Inbox, Outbox};
use crate::exports::Exports;
use crate::handshake::{Handshake, State};
use crate::listen::{Listen, Listener, SocketFile};
use crate::session::Session;
use crate::stream::{End, Stream};

/// How long the server does without new connections when the system has no more descriptors or threads.
const SCARCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time; more are closed before the greeting.
    pub connections: usize,
    /// From the connection to the first request.
    pub handshake: Duration,
    /// Without a single byte of a request that has begun, or without taking a single byte of a reply.
    pub stall: Duration,
    /// From the request to stop to the end of the last connection.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 128,
            handshake: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// What the accept loop, the connections and the handles have in common. No request touches it but to look at `stop`.
struct Shared {
    exports: Arc<Exports>,
    limits: Limits,
    stop: AtomicBool,
    wake: OwnedFd,
    live: Mutex<Live>,
    ended: Condvar,
}

#[derive(Default)]
struct Live {
    count: usize,
    streams: Vec<Weak<Stream>>,
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn each_stream(&self, act: fn(&Stream)) {
        for stream in self.live().streams.iter().filter_map(Weak::upgrade) {
            act(&stream);
        }
    }

    /// Waits for the connections to end, and tells how many did not.
    fn wait(&self, time: Duration) -> usize {
        let live = self.live();
        let waited = self.ended.wait_timeout_while(live, time, |live| live.count > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.count
    }
}

/// Steers a server from elsewhere.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Asks the server to stop, and returns at once; [`Server::run`] returns when it has.
    pub fn shutdown(&self) {
        self.0.stop.store(true, Ordering::Release);
        // Fails only when the counter is full, and then the loop is awake anyway.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }

    /// Connections at this moment.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.live().count
    }
}

/// A server that listens.
pub struct Server {
    listener: Listener,
    socket: Option<SocketFile>,
    shared: Arc<Shared>,
}

impl Server {
    /// Begins to listen. Clients may connect from now on, and are served once [`Server::run`] runs.
    ///
    /// # Errors
    /// [`Kind::Busy`] if somebody listens there already; [`Kind::Exists`] if a file that is no socket is in the way;
    /// [`Kind::Invalid`] for an address that cannot be one; what the system said otherwise.
    pub fn bind(listen: &Listen, exports: Arc<Exports>, limits: Limits) -> Result<Server> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::os("make eventfd", e.into()))?;
        let (listener, socket) = Listener::bind(listen)?;
        let shared = Shared {
            exports,
            limits,
            stop: AtomicBool::new(false),
            wake,
            live: Mutex::default(),
            ended: Condvar::new(),
        };
        Ok(Server { listener, socket, shared: Arc::new(shared) })
    }

    /// The URI of an export: `nbd+unix:///namespace0.0?socket=/run/x.sock`, `nbd://127.0.0.1:10809/namespace0.0`.
    /// An empty name is the default export.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        self.listener.uri(export)
    }

    /// A handle that can stop it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Serves until [`Handle::shutdown`]. Then it stops to listen, lets every connection finish the requests that have
    /// been received, flushes every export, and removes its socket's file.
    ///
    /// # Errors
    /// The system's, if no more connections can be accepted; the first error of the final flush; [`Kind::Busy`] if a
    /// connection was still inside its device when time was up ([`Limits::drain`] and as much again).
    pub fn run(self) -> Result<()> {
        let Server { listener, socket, shared } = self;
        let accepted = accept(&listener, &shared);
        drop(listener);
        shared.stop.store(true, Ordering::Release);
        shared.each_stream(Stream::stop_receiving);
        let mut left = shared.wait(shared.limits.drain);
        if left > 0 {
            shared.each_stream(Stream::cut);
            left = shared.wait(shared.limits.drain);
        }
        let flushed = shared.exports.flush();
        drop(socket);
        accepted.and(flushed)?;
        if left > 0 {
            return Err(Error::new(Kind::Busy, "stop NBD server")
                .found(format_args!("{left} connections inside their device"))
                .accepted("none"));
        }
        Ok(())
    }
}

/// Accepts until it is to stop.
fn accept(listener: &Listener, shared: &Arc<Shared>) -> Result<()> {
    let mut scarce = false;
    while !shared.stop.load(Ordering::Acquire) {
        let wake = PollFd::new(&shared.wake, PollFlags::IN);
        let mut ready = [wake, PollFd::new(listener, PollFlags::IN)];
        // Without descriptors the listener stays readable, and waiting for it would spin.
        let (fds, time) = if scarce { (&mut ready[..1], Some(&SCARCE)) } else { (&mut ready[..], None) };
        match poll(fds, time) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::os("wait for NBD clients", error.into())),
        }
        scarce = false;
        match listener.accept() {
            Ok(stream) => scarce = !admit(stream, shared),
            Err(error) => match rustix::io::Errno::from_io_error(&error) {
                Some(e) if is_passing(e) => {}
                Some(e) if is_scarcity(e) => scarce = true,
                _ => return Err(Error::os("accept NBD client", error)),
            },
        }
    }
    Ok(())
}

/// Nobody there, or a client that left before it was accepted. (Linux hands on errors of the new socket.)
fn is_passing(e: rustix::io::Errno) -> bool {
    use rustix::io::Errno as E;
    matches!(
        e,
        E::AGAIN
            | E::INTR
            | E::CONNABORTED
            | E::PROTO
            | E::NETDOWN
            | E::NETUNREACH
            | E::HOSTDOWN
            | E::HOSTUNREACH
            | E::NOPROTOOPT
            | E::NONET
            | E::OPNOTSUPP
            | E::PERM
    )
}

fn is_scarcity(e: rustix::io::Errno) -> bool {
    use rustix::io::Errno as E;
    matches!(e, E::MFILE | E::NFILE | E::NOBUFS | E::NOMEM)
}

/// A connection's place among those that there may be.
struct Seat(Arc<Shared>);

impl Drop for Seat {
    fn drop(&mut self) {
        let mut live = self.0.live();
        live.count = live.count.saturating_sub(1);
        self.0.ended.notify_all();
    }
}

/// Gives a connection its thread; false if the system has none left. Beyond the limit the socket is just closed.
fn admit(stream: Stream, shared: &Arc<Shared>) -> bool {
    let stream = Arc::new(stream);
    let seat = {
        let mut live = shared.live();
        if live.count >= shared.limits.connections {
            return true;
        }
        live.streams.retain(|stream| stream.strong_count() > 0);
        live.streams.push(Arc::downgrade(&stream));
        live.count = live.count.saturating_add(1);
        Seat(Arc::clone(shared))
    };
    let serve = move || {
        // How it ended concerns this client only, who has been told whatever the protocol can tell. The seat is
        // given back last, when the device and the buffers are gone, also by way of a panic.
        let _ = connection(stream, &seat.0.exports, &seat.0.limits, &seat.0.stop);
    };
    thread::Builder::new().name("nbd".into()).spawn(serve).is_ok()
}

/// Serves one client on a socket that is connected already, a stream of the unix family, and returns when the connection is over.
///
/// For whoever accepts by other means than a [`Server`]: from inetd, over a socket pair. How it ended concerns the client only, who has been
/// told whatever the protocol can tell. Of `limits`, those of one connection hold. Nothing is flushed but what the client flushes.
pub fn serve_connection(socket: impl Into<OwnedFd>, exports: &Exports, limits: &Limits) {
    let stop = AtomicBool::new(false);
    let _ = connection(Arc::new(Stream::unix(socket)), exports, limits, &stop);
}

fn connection(stream: Arc<Stream>, exports: &Exports, limits: &Limits, stop: &AtomicBool) -> Result<(), End> {
    let mut inbox = Inbox::new(Arc::clone(&stream));
    let mut outbox = Outbox::new(Arc::clone(&stream));
    stream.send_within(limits.stall)?;
    let handshake = Handshake {
        stream: &stream,
        inbox: &mut inbox,
        outbox: &mut outbox,
        exports,
        stop,
        began: Instant::now(),
        within: limits.handshake,
        state: State::default(),
    };
    let Some(agreed) = handshake.run()? else { return Ok(()) };
    stream.receive_within(limits.stall)?;
    agreed.export.join(&stream);
    Session::new(inbox, outbox, stop, agreed).run()
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scarcity_is_waited_out_and_strange_clients_are_passed_over() {
        let errno = |e: i32| rustix::io::Errno::from_io_error(&std::io::Error::from_raw_os_error(e)).unwrap();
        assert!(is_scarcity(errno(24)) && !is_passing(errno(24)), "EMFILE");
        assert!(is_passing(errno(11)) && !is_scarcity(errno(11)), "EAGAIN");
        assert!(!is_passing(errno(9)) && !is_scarcity(errno(9)), "EBADF");
    }
}
