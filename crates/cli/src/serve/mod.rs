// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack serve`: namespaces as block devices over NBD.

mod device;
mod ending;
mod private;
mod through;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use nvstack_block::BlockDevice;
use nvstack_btt::CreateOptions;
use nvstack_format::btt::{LbaSize, Version};
use nvstack_media::{Access, Anon, Domain, Error, Kind, Media, Result};
use nvstack_nbd::{Exports, Limits, Listen, Server};
use serde_json::json;
use uuid::Uuid;

use self::device::Device;
use self::ending::Ending;
use self::private::PrivateDir;
use crate::args::{Cache as CacheArg, ServeArgs};
use crate::create::{self, Recipe};
use crate::end::{note, warn};
use crate::image::{Image, Namespace, Personality};
use crate::json::write_stdout;
use crate::target::Place;

const COMMAND: &str = "serve";

/// `nvstack serve TARGET`; gives the exit status.
pub(crate) fn run(args: &ServeArgs) -> Result<u8> {
    // Before anything can be interrupted half-way: a signal from here on ends in order.
    let ending = Ending::catch()?;
    let (devices, domain) = match args.target.target.place {
        Place::Memory(bytes) => open_memory(bytes, args)?,
        Place::Image(_) => open_image(args)?,
    };
    let exports = Arc::new(Exports::new());
    let mut tickers = Vec::new();
    let mut first: Option<(String, u64, u32)> = None;
    for Device { name, what, sector_size, device, ticker } in devices {
        note(COMMAND, format_args!("{name}: {what}"));
        first.get_or_insert((name.clone(), device.geometry().bytes(), sector_size));
        exports.add(name, what, device)?;
        tickers.extend(ticker);
    }
    let Some((name, size, sector_size)) = first else {
        return Err(Error::new(Kind::NotFound, "serve").accepted("an image with a healthy namespace"));
    };

    let (listen, private) = listen(args)?;
    let server = Server::bind(&listen, Arc::clone(&exports), Limits::default())?;
    note(COMMAND, persistence(domain, args));
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
    handle.shutdown();
    let served =
        running.join().unwrap_or_else(|_| Err(Error::new(Kind::Io, "serve").found("a thread that panicked")));
    drop(tickers);
    drop(private);
    served?;
    status
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

/// Opens the namespaces of an image: the one that is named, or all that are healthy.
fn open_image(args: &ServeArgs) -> Result<(Vec<Device>, Domain)> {
    let target = &args.target.target;
    let path = target.image()?;
    create_if_missing(path, args)?;
    let access = if args.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let image = Image::open(path, args.target.label_size, access)?;
    image.tell(COMMAND);
    let chosen: Vec<&Namespace> = match target.name.as_deref() {
        Some(name) => vec![image.namespace(name)?],
        None => image.namespaces.iter().collect(),
    };
    let alone = chosen.len() == 1;
    let mut devices = Vec::new();
    for n in chosen {
        match device::open(image.media(n)?, n, args) {
            Ok(device) => devices.push(device),
            // One that nothing else can stand in for must be served.
            Err(e) if alone => return Err(e.path(path)),
            Err(e) => warn(COMMAND, format_args!("{} is left out: {e}", n.name())),
        }
    }
    if devices.is_empty() {
        return Err(Error::new(Kind::NotFound, "serve")
            .path(path)
            .accepted("an image with a healthy namespace"));
    }
    Ok((devices, image.mapping().domain()))
}

/// Opens memory of our own: a new BTT in it, or its bytes.
fn open_memory(bytes: u64, args: &ServeArgs) -> Result<(Vec<Device>, Domain)> {
    let name = args.target.target.name.as_deref().unwrap_or("namespace0.0");
    if name != "namespace0.0" {
        return Err(Error::new(Kind::NotFound, "look for a namespace").found(name).accepted("namespace0.0"));
    }
    let media = Arc::new(Anon::new(bytes)?);
    let domain = media.domain();
    let n = Namespace { index: 0, start: 0, size: bytes, label: None, personality: Personality::Raw };
    if args.raw {
        return Ok((vec![device::open(media, &n, args)?], domain));
    }
    let lbasize = LbaSize::new(4096).map_err(|f| Error::new(Kind::Invalid, "make BTT").because(f))?;
    let (version, parent) = (Version::V1_1, Uuid::nil());
    let made = CreateOptions { version, parent, uuid: create::random_uuid()?, lbasize, overwrite: false };
    nvstack_btt::create(&media, &made)?;
    Ok((vec![device::sector(&n, media, device::options(&n, version, parent, args))?], domain))
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
