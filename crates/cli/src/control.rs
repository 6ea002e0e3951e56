// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree of a running server, over a socket: what `serve --control PATH` offers, and what the TARGET `unix:PATH` uses. So every verb
//! works on what is being served, without taking it away from its clients first.
//!
//! One request and one answer a line, as JSON. The socket belongs to its owner alone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nvstack_media::{Error, Kind, Result};
use nvstack_ndctl::Sys;
use serde::{Deserialize, Serialize};

/// A line may be this long: the largest transfer, in hexadecimal, and a path.
const LINE: u64 = (2 * TRANSFER as u64) + 4096;
/// Bytes that one request moves at most; verbs move less at once.
const TRANSFER: usize = 1 << 20;
/// Connections at once. A verb has one, for as long as it runs.
const CLIENTS: usize = 64;

/// What is asked.
#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Read { path: String },
    Write { path: String, text: String },
    List { path: String },
    Link { path: String },
    ReadDev { dev: String, at: u64, len: usize },
    WriteDev { dev: String, at: u64, data: String },
    LabelSize { dimm: String },
    LabelRead { dimm: String, at: u64, len: usize },
    LabelWrite { dimm: String, at: u64, data: String },
    InjectError { region: String, at: u64, len: u64 },
    ClearError { region: String, at: u64, len: u64 },
    IdleDev { dev: String },
}

/// What is answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Answer {
    Text(String),
    Names(Vec<String>),
    Number(u64),
    Data(String),
    Done,
    Error { kind: String, text: String },
}

/// Kinds by name, for the wire.
const KINDS: [Kind; 17] = [
    Kind::Invalid,
    Kind::OutOfRange,
    Kind::NotFound,
    Kind::Exists,
    Kind::Busy,
    Kind::Permission,
    Kind::ReadOnly,
    Kind::Unsupported,
    Kind::Unrecognised,
    Kind::Corrupt,
    Kind::Poison,
    Kind::Io,
    Kind::Fault,
    Kind::NoSpace,
    Kind::NoMemory,
    Kind::Gone,
    Kind::NoDevice,
];

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let bad = || Error::new(Kind::Invalid, "read control message").found("bytes that are not hexadecimal");
    if text.len() / 2 > TRANSFER || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(bad());
    }
    (0..text.len() / 2).map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).map_err(|_| bad())).collect()
}

/// Answers one request.
fn answer(sys: &dyn Sys, request: Request) -> Result<Answer> {
    let buffer = |len: usize| {
        if len > TRANSFER {
            return Err(Error::new(Kind::Invalid, "read control message").found(len).accepted(TRANSFER));
        }
        Ok(vec![0; len])
    };
    Ok(match request {
        Request::Read { path } => Answer::Text(sys.read(&path)?),
        Request::Write { path, text } => {
            sys.write(&path, &text)?;
            Answer::Done
        }
        Request::List { path } => Answer::Names(sys.list(&path)?),
        Request::Link { path } => Answer::Text(sys.link(&path)?),
        Request::ReadDev { dev, at, len } => {
            let mut bytes = buffer(len)?;
            sys.read_dev(&dev, at, &mut bytes)?;
            Answer::Data(hex(&bytes))
        }
        Request::WriteDev { dev, at, data } => {
            sys.write_dev(&dev, at, &unhex(&data)?)?;
            Answer::Done
        }
        Request::LabelSize { dimm } => Answer::Number(sys.label_size(&dimm)?),
        Request::LabelRead { dimm, at, len } => {
            let mut bytes = buffer(len)?;
            sys.label_read(&dimm, at, &mut bytes)?;
            Answer::Data(hex(&bytes))
        }
        Request::LabelWrite { dimm, at, data } => {
            sys.label_write(&dimm, at, &unhex(&data)?)?;
            Answer::Done
        }
        Request::InjectError { region, at, len } => {
            sys.inject_error(&region, at, len)?;
            Answer::Done
        }
        Request::ClearError { region, at, len } => {
            sys.clear_error(&region, at, len)?;
            Answer::Done
        }
        Request::IdleDev { dev } => {
            sys.idle_dev(&dev)?;
            Answer::Done
        }
    })
}

fn changes(request: &Request) -> bool {
    matches!(
        request,
        Request::Write { .. }
            | Request::WriteDev { .. }
            | Request::LabelWrite { .. }
            | Request::InjectError { .. }
            | Request::ClearError { .. }
    )
}

/// The server's end. Ends, and takes its socket away, when it is dropped.
pub(crate) struct Control {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
    clients: Clients,
}

/// The connections, so that they can be ended.
type Clients = Arc<Mutex<BTreeMap<u64, UnixStream>>>;

/// A connection that is forgotten when it ends.
struct Known {
    clients: Clients,
    number: u64,
}

impl Known {
    /// Nothing where there are too many.
    fn new(clients: &Clients, number: u64, stream: &UnixStream) -> Option<Known> {
        let mut known = clients.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CLIENTS {
            return None;
        }
        known.insert(number, stream.try_clone().ok()?);
        Some(Known { clients: Arc::clone(clients), number })
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Control {
    /// Offers a tree on a new socket. After each request that changes something `changed` is called.
    pub(crate) fn start(
        path: &Path,
        sys: Arc<dyn Sys + Send + Sync>,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Result<Control> {
        let failed = |e| Error::os("open control socket", e).path(path);
        // Nobody else may connect, not even for the moment before a chmod.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(mask);
        let listener = bound.map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let clients = Clients::default();
        let (stopped, known) = (Arc::clone(&stop), Arc::clone(&clients));
        let changed: Arc<dyn Fn() + Send + Sync> = Arc::new(changed);
        let accepting = std::thread::Builder::new().name("control".into()).spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming()) {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else {
                    // Out of descriptors, say: others end meanwhile.
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                };
                let Some(known) = Known::new(&known, number, &stream) else {
                    let full = Error::new(Kind::Busy, "serve control socket")
                        .found("as many connections as it takes")
                        .accepted(format_args!("at most {CLIENTS}"));
                    // Who does not read the answer sees the end of the connection.
                    let _ = say(&stream, &refusal(&full));
                    continue;
                };
                let (sys, changed) = (Arc::clone(&sys), Arc::clone(&changed));
                // If no thread can be had the client sees the connection end.
                let _ = std::thread::Builder::new().name("control".into()).spawn(move || {
                    serve(&stream, sys.as_ref(), changed.as_ref());
                    drop(known);
                });
            }
        });
        let accepting = accepting.map_err(failed)?;
        Ok(Control { path: path.to_path_buf(), stop, accepting: Some(accepting), clients })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the one that accepts.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
        for client in self.clients.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn refusal(error: &Error) -> Answer {
    Answer::Error { kind: format!("{:?}", error.kind()), text: error.to_string() }
}

/// Sends an answer.
fn say(mut stream: &UnixStream, answer: &Answer) -> std::io::Result<()> {
    let mut text = serde_json::to_string(answer)?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}

/// Answers one client, until it goes or says what is no line.
pub(crate) fn serve(stream: &UnixStream, sys: &dyn Sys, changed: &dyn Fn()) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        match reader.by_ref().take(LINE).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if !line.ends_with('\n') {
            return;
        }
        let answered = serde_json::from_str::<Request>(&line)
            .map_err(|e| Error::new(Kind::Invalid, "read control message").because(e))
            .and_then(|request| {
                let change = changes(&request);
                let answered = answer(sys, request);
                if change {
                    changed();
                }
                answered
            })
            .unwrap_or_else(|e| refusal(&e));
        if say(stream, &answered).is_err() {
            return;
        }
    }
}

/// The client's end.
pub(crate) struct Remote {
    path: PathBuf,
    stream: Mutex<BufReader<UnixStream>>,
}

impl Remote {
    pub(crate) fn connect(path: &Path) -> Result<Remote> {
        let stream = UnixStream::connect(path).map_err(|e| Error::os("connect to server", e).path(path))?;
        let remote = Remote { path: path.to_path_buf(), stream: Mutex::new(BufReader::new(stream)) };
        // Verbs take what cannot be read for what is not there: a server that refuses is told of here.
        remote.ask(&Request::List { path: "bus/nd/devices".into() })?;
        Ok(remote)
    }

    fn ask(&self, request: &Request) -> Result<Answer> {
        let failed = |e| Error::os("talk to server", e).path(&self.path);
        let mut text = serde_json::to_string(request)
            .map_err(|e| Error::new(Kind::Invalid, "talk to server").because(e))?;
        text.push('\n');
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // A server that refuses says why and hangs up, maybe before it has heard anything.
        let written = stream.get_mut().write_all(text.as_bytes());
        let mut line = String::new();
        let read = stream.by_ref().take(LINE).read_line(&mut line);
        if line.is_empty() {
            written.map_err(failed)?;
            read.map_err(failed)?;
        }
        let answer: Answer = serde_json::from_str(&line).map_err(|e| {
            Error::new(Kind::Io, "talk to server")
                .path(&self.path)
                .found("an answer that makes no sense")
                .because(e)
        })?;
        match answer {
            Answer::Error { kind, text } => {
                let kind = KINDS.into_iter().find(|k| format!("{k:?}") == kind).unwrap_or(Kind::Io);
                Err(Error::new(kind, "server").because(text))
            }
            answer => Ok(answer),
        }
    }

    fn odd<T>(&self) -> Result<T> {
        Err(Error::new(Kind::Io, "talk to server").path(&self.path).found("an answer to something else"))
    }

    fn done(&self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            _ => self.odd(),
        }
    }

    fn text(&self, request: &Request) -> Result<String> {
        match self.ask(request)? {
            Answer::Text(text) => Ok(text),
            _ => self.odd(),
        }
    }

    fn data(&self, request: &Request, into: &mut [u8]) -> Result<()> {
        match self.ask(request)? {
            Answer::Data(data) => {
                let bytes = unhex(&data)?;
                if bytes.len() != into.len() {
                    return self.odd();
                }
                into.copy_from_slice(&bytes);
                Ok(())
            }
            _ => self.odd(),
        }
    }
}

impl Sys for Remote {
    fn read(&self, path: &str) -> Result<String> {
        self.text(&Request::Read { path: path.into() })
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        self.done(&Request::Write { path: path.into(), text: text.into() })
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        match self.ask(&Request::List { path: path.into() })? {
            Answer::Names(names) => Ok(names),
            _ => self.odd(),
        }
    }

    fn link(&self, path: &str) -> Result<String> {
        self.text(&Request::Link { path: path.into() })
    }

    fn read_dev(&self, dev: &str, at: u64, into: &mut [u8]) -> Result<()> {
        let mut at = at;
        for piece in into.chunks_mut(TRANSFER) {
            self.data(&Request::ReadDev { dev: dev.into(), at, len: piece.len() }, piece)?;
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn write_dev(&self, dev: &str, at: u64, from: &[u8]) -> Result<()> {
        let mut at = at;
        for piece in from.chunks(TRANSFER) {
            self.done(&Request::WriteDev { dev: dev.into(), at, data: hex(piece) })?;
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn label_size(&self, dimm: &str) -> Result<u64> {
        match self.ask(&Request::LabelSize { dimm: dimm.into() })? {
            Answer::Number(size) => Ok(size),
            _ => self.odd(),
        }
    }

    fn label_read(&self, dimm: &str, at: u64, into: &mut [u8]) -> Result<()> {
        let mut at = at;
        for piece in into.chunks_mut(TRANSFER) {
            self.data(&Request::LabelRead { dimm: dimm.into(), at, len: piece.len() }, piece)?;
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn label_write(&self, dimm: &str, at: u64, from: &[u8]) -> Result<()> {
        let mut at = at;
        for piece in from.chunks(TRANSFER) {
            self.done(&Request::LabelWrite { dimm: dimm.into(), at, data: hex(piece) })?;
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    fn inject_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        self.done(&Request::InjectError { region: region.into(), at, len })
    }

    fn clear_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        self.done(&Request::ClearError { region: region.into(), at, len })
    }

    fn idle_dev(&self, dev: &str) -> Result<()> {
        self.done(&Request::IdleDev { dev: dev.into() })
    }
}
