// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack serve`: namespaces as block devices over NBD.

mod ending;
mod exports;
mod private;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use nvstack_media::{Access, Domain, Error, Kind, Result};
use nvstack_nbd::{Exports, Limits, Listen, Server};
use nvstack_ndctl::{CreateOptions, Lines, Mode};
use nvstack_stack::{Event, Stack};
use serde_json::json;

use self::ending::Ending;
use self::exports::{Board, make_raw};
use self::private::PrivateDir;
use crate::args::{Cache as CacheArg, ServeArgs};
use crate::control::Control;
use crate::create::{self, Recipe};
use crate::end::{note, warn};
use crate::json::write_stdout;
use crate::machine::Machine;
use crate::sys::LocalSys;
use crate::target::Place;

const COMMAND: &str = "serve";

/// `nvstack serve TARGET`; gives the exit status.
pub(crate) fn run(args: &ServeArgs) -> Result<u8> {
    // Before anything can be interrupted half-way: a signal from here on ends in order.
    let ending = Ending::catch()?;
    let machine = open(args)?;
    let stack = machine.stack()?.clone();
    let options = nvstack_stack::OpenOptions {
        read_only: args.read_only,
        cache: match args.cache {
            CacheArg::Writeback => nvstack_btt::Cache::Writeback,
            CacheArg::Writethrough => nvstack_btt::Cache::Writethrough,
        },
        zero_entries: args.zero_entries,
    };
    let only = args.target.target.name.clone();
    let events = stack.subscribe();
    let exports = Arc::new(Exports::new());
    let board = Arc::new(Board::new(stack.clone(), Arc::clone(&exports), options, only, args.raw));
    let first = board.fill().map_err(|e| e.path(&machine.place))?;
    if first.is_none() && args.control.is_none() {
        return Err(Error::new(Kind::NotFound, "serve")
            .path(&machine.place)
            .accepted("a healthy namespace; or --control, to make one while it runs"));
    }

    let (listen, private) = listen(args)?;
    let server = Server::bind(&listen, Arc::clone(&exports), Limits::default())?;
    note(COMMAND, persistence(machine.domain, args));
    let control = args.control.as_deref().map(|path| control(path, &machine, &stack, &board)).transpose()?;
    let following = Following::start(events, Arc::clone(&board))?;
    let (name, size, sector_size) = first.map_or((String::new(), 0, 0), |f| (f.name, f.size, f.sector_size));
    let uri = server.uri(&name);
    let line = format!("{}\n", json!({ "uri": uri, "size": size, "sector_size": sector_size }));
    announce(args, &line)?;

    let (handle, end_waiting) = (server.handle(), ending.handle());
    let running = std::thread::Builder::new()
        .name("nbd-accept".into())
        .spawn(move || {
            let served = server.run();
            // A server that ended by itself has nothing to wait for any more.
            end_waiting.close();
            served
        })
        .map_err(|e| Error::os("start server", e))?;
    let status = match &args.run {
        None => {
            ending.wait();
            Ok(0)
        }
        Some(command) => {
            let mut variables = vec![("uri", uri.clone())];
            match &listen {
                Listen::Unix(path) => variables.push(("unixsocket", path.display().to_string())),
                Listen::Tcp { .. } => variables.extend(port_of(&uri).map(|port| ("port", port))),
                Listen::Passed => {}
            }
            ending.wait_for(command, &variables)
        }
    };
    drop(control);
    handle.shutdown();
    let served =
        running.join().unwrap_or_else(|_| Err(Error::new(Kind::Io, "serve").found("a thread that panicked")));
    drop(following);
    // What clients wrote is flushed; now the disks go, then what is under them.
    drop(board);
    drop(private);
    let saved = machine.save();
    machine.down();
    served?;
    saved?;
    status
}

/// Brings the machine up as it is to be served.
fn open(args: &ServeArgs) -> Result<Machine> {
    match &args.target.target.place {
        Place::Image(path) => create_if_missing(path, args)?,
        Place::Running(_) => {
            return Err(Error::new(Kind::Unsupported, "serve")
                .found("what another server serves")
                .accepted("IMAGE, LAB.toml or mem:SIZE"));
        }
        Place::Lab(_) | Place::Memory(_) if args.create.is_some() => {
            return Err(Error::new(Kind::Invalid, "serve")
                .found("--create, and no IMAGE to make")
                .accepted("--create with IMAGE"));
        }
        Place::Lab(_) | Place::Memory(_) => {}
    }
    let access = if args.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let machine = Machine::open(&args.target, access)?;
    let stack = machine.stack()?;
    if let Some(name) = &args.target.target.name {
        machine.find(name)?;
    }
    let chosen = args.target.target.name.clone();
    let namespaces = || {
        let all =
            Board::new(stack.clone(), Arc::default(), nvstack_stack::OpenOptions::default(), None, args.raw);
        all.namespaces().into_iter().filter(|n| chosen.as_ref().is_none_or(|c| c == n))
    };
    if args.raw {
        for name in namespaces() {
            make_raw(stack, &name)?;
        }
    } else if matches!(args.target.target.place, Place::Memory(_)) {
        let sector = CreateOptions {
            reconfigure: Some("namespace0.0".to_owned()),
            mode: Some(Mode::Sector),
            force: true,
            ..CreateOptions::default()
        };
        let mut words = Lines::default();
        let made = nvstack_ndctl::create(machine.sys(), &sector, &mut words)?;
        if made.status != 0 {
            return Err(Error::new(Kind::NoSpace, "make BTT").found(words.lines.join("; ")));
        }
    } else if args.read_only {
        for name in namespaces() {
            let why = stack.tree().read(&format!("{name}/nvstack/error")).unwrap_or_default();
            if why.contains("backup info block that is whole") {
                stack.bind_from_backup(&name)?;
            }
        }
    }
    machine.tell(COMMAND);
    Ok(machine)
}

/// Offers the tree on a socket.
fn control(path: &Path, machine: &Machine, stack: &Stack, board: &Arc<Board>) -> Result<Control> {
    let asked = Arc::clone(board);
    let sys = LocalSys::new(stack.clone(), machine.writable).in_use(Box::new(move |disk| asked.in_use(disk)));
    let keeper = machine.keeper();
    Control::start(path, Arc::new(sys), move || {
        if let Err(e) = keeper() {
            warn(COMMAND, e);
        }
    })
}

/// Keeps the exports in step with the machine until it is dropped.
struct Following {
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Following {
    fn start(events: Receiver<Event>, board: Arc<Board>) -> Result<Following> {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("exports".into())
            .spawn(move || {
                while !stopped.load(std::sync::atomic::Ordering::Acquire) {
                    match events.recv_timeout(Duration::from_millis(100)) {
                        Ok(event) => board.follow(&event),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })
            .map_err(|e| Error::os("start server", e))?;
        Ok(Following { stop, thread: Some(thread) })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the image of `--create` if there is none.
fn create_if_missing(path: &Path, args: &ServeArgs) -> Result<()> {
    let Some(size) = args.create else { return Ok(()) };
    match path.symlink_metadata() {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            match create::make(path, &Recipe::standard(size, args.target.label_size)) {
                Ok(_) => Ok(()),
                // Somebody else made one meanwhile: it is not touched, and the lock tells the rest.
                Err(e) if e.kind() == Kind::Exists => Ok(()),
                Err(e) => Err(e),
            }
        }
        Err(e) => Err(Error::os("look for image", e).path(path)),
    }
}

/// Where to listen, and the directory that was made for it.
fn listen(args: &ServeArgs) -> Result<(Listen, Option<PrivateDir>)> {
    if let Some(address) = &args.nbd {
        return Ok((address.parse()?, None));
    }
    if is_passed_a_socket() {
        return Ok((Listen::Passed, None));
    }
    let dir = PrivateDir::new()?;
    Ok((Listen::Unix(dir.socket()), Some(dir)))
}

/// Whether sockets were passed to this very process; what a parent got is inherited with the environment.
fn is_passed_a_socket() -> bool {
    let pid = std::process::id().to_string();
    std::env::var("LISTEN_PID").is_ok_and(|p| p == pid) && std::env::var_os("LISTEN_FDS").is_some()
}

/// The port in a URI of TCP: with port 0 it was the system that chose it.
fn port_of(uri: &str) -> Option<String> {
    let host = uri.strip_prefix("nbd://")?.split('/').next()?;
    host.rsplit_once(':').map(|(_, port)| port.to_owned())
}

/// What a completed write is worth, in words.
fn persistence(domain: Domain, args: &ServeArgs) -> String {
    if args.read_only {
        return "read-only: no byte of the image is changed".into();
    }
    let what = match (domain, args.cache) {
        (Domain::Cache, _) => "every completed write is durable (MAP_SYNC, CPU cache flushes)".into(),
        (Domain::Memory, _) if matches!(args.target.target.place, Place::Memory(_)) => {
            "memory of this process: everything is gone when it ends".into()
        }
        (Domain::Memory, _) => {
            "the file is in memory: a completed write survives this process, and not the machine".to_string()
        }
        (Domain::PageCache, CacheArg::Writeback) => {
            "a plain file: a write is durable after FLUSH or FUA, or a second; \
             the device has a volatile write cache"
                .into()
        }
        (Domain::PageCache, CacheArg::Writethrough) => {
            "a plain file, writethrough: every completed write is durable".into()
        }
    };
    format!("persistence {domain}: {what}")
}

/// Tells that clients may come.
fn announce(args: &ServeArgs, line: &str) -> Result<()> {
    if let Some(fd) = args.ready_fd {
        let failed = |e| Error::os(format!("write to file descriptor {fd}"), e);
        // Opened anew by its number: a pipe, FIFO or file, as service managers pass.
        let mut file = OpenOptions::new().write(true).open(format!("/proc/self/fd/{fd}")).map_err(failed)?;
        file.write_all(line.as_bytes()).map_err(failed)?;
    }
    // With --run stdout is the command's.
    if args.run.is_none() { write_stdout(line.as_bytes()) } else { Ok(()) }
}
