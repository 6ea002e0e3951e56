// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a server listens, and how that is written as a URI.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use listenfd::ListenFd;
use nvstack_media::{Error, Kind, Result};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::stream::Stream;

/// The port that IANA gives to NBD.
const PORT: u16 = 10809;

/// Longest path of a unix socket, in bytes: `sun_path` without its NUL.
const MAX_SOCKET_PATH: usize = 107;

/// Where to listen.
///
/// As text: `unix:PATH`, `tcp:HOST:PORT`, `passed`. Of HOST and PORT either may be left out; without a host it is the
/// loopback address, without a port 10809; port 0 takes any free one. An IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A unix socket at this path, which is created. One that nobody listens on is replaced.
    Unix(PathBuf),
    /// TCP. `None` is 127.0.0.1; a name that means several addresses takes the first that can be had.
    Tcp {
        /// Host name or address.
        host: Option<String>,
        /// Port; 0 for any.
        port: u16,
    },
    /// The one listening socket that the parent process passed (`LISTEN_FDS`, `LISTEN_PID`).
    Passed,
}

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Listen> {
        let refuse = || {
            Error::new(Kind::Invalid, "parse NBD address")
                .found(format_args!("{text:?}"))
                .accepted("unix:PATH, tcp:HOST:PORT (either may be left out), passed")
        };
        match text.split_once(':') {
            None if text == "passed" => Ok(Listen::Passed),
            Some(("unix", path)) if !path.is_empty() => Ok(Listen::Unix(path.into())),
            Some(("tcp", rest)) => {
                let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                    Some((host, "")) => (host, None),
                    Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(refuse)?)),
                    None => match rest.rsplit_once(':') {
                        Some((host, port)) => (host, Some(port)),
                        None if rest.bytes().all(|b| b.is_ascii_digit()) => ("", Some(rest)),
                        None => (rest, None),
                    },
                };
                if host.contains([':', '[', ']']) && host.parse::<Ipv6Addr>().is_err() {
                    return Err(refuse());
                }
                let port = match port {
                    None | Some("") => PORT,
                    Some(port) => port.parse().map_err(|_| refuse())?,
                };
                Ok(Listen::Tcp { host: (!host.is_empty()).then(|| host.to_owned()), port })
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Tcp { host, port } => match host.as_deref() {
                None => write!(f, "tcp:127.0.0.1:{port}"),
                Some(host) if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
                Some(host) => write!(f, "tcp:{host}:{port}"),
            },
            Listen::Passed => f.write_str("passed"),
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Begins to listen; the second value removes the socket's file when it is dropped.
    pub(crate) fn bind(listen: &Listen) -> Result<(Listener, Option<SocketFile>)> {
        let (listener, file) = match listen {
            Listen::Unix(path) => {
                let (listener, file) = bind_unix(path)?;
                (Listener::Unix(listener), Some(file))
            }
            Listen::Tcp { host, port } => {
                let host = host.as_deref().unwrap_or("127.0.0.1");
                let listener = TcpListener::bind((host, *port)).map_err(|e| bind_error(listen, e))?;
                (Listener::Tcp(listener), None)
            }
            Listen::Passed => (passed()?, None),
        };
        let nonblocking = match &listener {
            Listener::Unix(l) => l.set_nonblocking(true),
            Listener::Tcp(l) => l.set_nonblocking(true),
        };
        nonblocking.map_err(|e| bind_error(listen, e))?;
        Ok((listener, file))
    }

    pub(crate) fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Unix(l) => l.accept().map(|(stream, _)| Stream::unix(stream)),
            Listener::Tcp(l) => l.accept().map(|(stream, _)| Stream::tcp(stream)),
        }
    }

    /// The URI of an export here, as clients of this host reach it.
    pub(crate) fn uri(&self, export: &str) -> String {
        let export = Escaped(export.as_bytes());
        match self {
            Listener::Unix(l) => {
                let address = l.local_addr().ok();
                let path =
                    address.as_ref().and_then(|a| a.as_pathname()).map(Path::to_path_buf).unwrap_or_default();
                let mut bytes = std::path::absolute(&path).unwrap_or(path).as_os_str().as_bytes().to_vec();
                if let Some(name) = address.as_ref().and_then(|a| a.as_abstract_name()) {
                    bytes = [&[0], name].concat();
                }
                format!("nbd+unix:///{export}?socket={}", Escaped(&bytes))
            }
            Listener::Tcp(l) => {
                let address = l.local_addr().unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
                let ip = match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                    ip => ip,
                };
                format!("nbd://{}/{export}", SocketAddr::new(ip, address.port()))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(l) => l.as_fd(),
            Listener::Tcp(l) => l.as_fd(),
        }
    }
}

fn bind_error(listen: &Listen, error: io::Error) -> Error {
    let operation = format!("listen on {listen}");
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::new(Kind::Busy, operation).because(error),
        io::ErrorKind::AddrNotAvailable => Error::new(Kind::NotFound, operation).because(error),
        _ => Error::os(operation, error),
    }
}

/// The one passed socket, of whichever family it is.
fn passed() -> Result<Listener> {
    let mut sockets = ListenFd::from_env();
    let refuse = |found: &dyn fmt::Display| {
        Error::new(Kind::Invalid, "take passed socket")
            .found(found)
            .accepted("one listening unix or TCP socket")
    };
    if sockets.len() != 1 {
        return Err(refuse(&format_args!("{} passed sockets", sockets.len())));
    }
    if let Ok(Some(listener)) = sockets.take_unix_listener(0) {
        return Ok(Listener::Unix(listener));
    }
    match sockets.take_tcp_listener(0) {
        Ok(Some(listener)) => Ok(Listener::Tcp(listener)),
        Ok(None) => Err(refuse(&"none")),
        Err(error) => Err(refuse(&error)),
    }
}

/// Makes a unix socket at a path. A socket that nobody listens on is in the way of nobody and is replaced; a live one,
/// and any other file, is left alone.
fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let listen = Listen::Unix(path.to_path_buf());
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(Error::new(Kind::Invalid, "listen on unix socket")
            .path(path)
            .found(format_args!("a path of {} bytes", path.as_os_str().len()))
            .accepted(format_args!("at most {MAX_SOCKET_PATH}")));
    }
    // Held until the socket listens: of two servers that find the same stale socket, the second must not take the
    // first one's new socket for stale. A directory that cannot be locked leaves only that race.
    let _lock = lock_directory(path);
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            UnixListener::bind(path)
        }
        outcome => outcome,
    }
    .map_err(|e| bind_error(&listen, e))?;
    let file = SocketFile::of(path).map_err(|e| bind_error(&listen, e))?;
    Ok((listener, file))
}

fn lock_directory(path: &Path) -> Option<rustix::fd::OwnedFd> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive).ok()?;
    Some(directory)
}

fn remove_stale(path: &Path) -> Result<()> {
    let system = |e: io::Error| Error::os("look at the socket that is there", e).path(path);
    let kind = path.symlink_metadata().map_err(system)?.file_type();
    if !kind.is_socket() {
        return Err(Error::new(Kind::Exists, "listen on unix socket")
            .path(path)
            .found("a file that is no socket")
            .accepted("no file, or a socket that nobody listens on"));
    }
    let address = SocketAddrUnix::new(path).map_err(|e| system(e.into()))?;
    // Does not wait: a listener whose queue is full is alive too.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|e| system(e.into()))?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(system),
        Ok(()) | Err(Errno::AGAIN) => Err(Error::new(Kind::Busy, "listen on unix socket")
            .path(path)
            .found("a socket that another process listens on")
            .accepted("no file, or a socket that nobody listens on")),
        Err(error) => Err(system(error.into())),
    }
}

/// The file of a socket that was made here: removed when this is dropped, if it still is that file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let meta = path.symlink_metadata()?;
        // Absolute, so that a later change of directory does not lead elsewhere.
        Ok(SocketFile { path: std::path::absolute(path)?, device: meta.dev(), inode: meta.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = |meta: std::fs::Metadata| (meta.dev(), meta.ino()) == (self.device, self.inode);
        if self.path.symlink_metadata().is_ok_and(same) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Bytes as a URI carries them.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let tcp = |host: Option<&str>, port| Listen::Tcp { host: host.map(str::to_owned), port };
        for (text, listen, shown) in [
            ("unix:/run/a b.sock", Listen::Unix("/run/a b.sock".into()), "unix:/run/a b.sock"),
            ("tcp:", tcp(None, 10809), "tcp:127.0.0.1:10809"),
            ("tcp:7", tcp(None, 7), "tcp:127.0.0.1:7"),
            ("tcp::7", tcp(None, 7), "tcp:127.0.0.1:7"),
            ("tcp:0.0.0.0:7", tcp(Some("0.0.0.0"), 7), "tcp:0.0.0.0:7"),
            ("tcp:host", tcp(Some("host"), 10809), "tcp:host:10809"),
            ("tcp:[::1]", tcp(Some("::1"), 10809), "tcp:[::1]:10809"),
            ("tcp:[::1]:7", tcp(Some("::1"), 7), "tcp:[::1]:7"),
            ("passed", Listen::Passed, "passed"),
        ] {
            let parsed: Listen = text.parse().unwrap();
            assert_eq!(parsed, listen, "{text}");
            assert_eq!(parsed.to_string(), shown);
        }
        for bad in [
            "",
            "unix:",
            "/run/x",
            "tcp",
            "tcp:h:99999",
            "tcp:h:x",
            "tcp:[::1]7",
            "tcp:[h:7",
            "udp:7",
            "passed:",
        ] {
            let error = bad.parse::<Listen>().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn uris_escape_what_has_a_meaning() {
        assert_eq!(Escaped(b"/tmp/a b?&#%~x.s").to_string(), "/tmp/a%20b%3F%26%23%25~x.s");
        assert_eq!(Escaped("\u{e9}\0".as_bytes()).to_string(), "%C3%A9%00");
    }
}
