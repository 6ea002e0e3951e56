// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack serve` as a child: started, asked for its URI, ended politely or not.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{command, kill_group, succeed};
use crate::report::{Context, Failure, Result, ensure};
use crate::unit::{cargo, target};

/// An open takes milliseconds; a busy machine is given more.
const READY: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);

/// Builds the release binary once and gives the folder that holds it.
pub(crate) fn build() -> Result<PathBuf> {
    succeed(&mut cargo(["build", "--quiet", "--release", "--package", "nvstack"]), Duration::from_secs(900))?;
    let folder = target().join("release");
    let binary = folder.join("nvstack");
    ensure(binary.is_file(), || format!("{} was not built", binary.display()))?;
    folder.canonicalize().context(folder.display())
}

/// The binary, with arguments.
pub(crate) fn nvstack<S: AsRef<OsStr>>(bin: &Path, args: impl IntoIterator<Item = S>) -> Command {
    command(bin.join("nvstack"), args)
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    stderr: Option<JoinHandle<String>>,
    /// `nbd+unix:///EXPORT?socket=PATH`.
    pub(crate) uri: String,
    /// Bytes of the export.
    pub(crate) size: u64,
    /// As the medium has it: 512, 520, 4096 ...
    pub(crate) sector_size: u64,
}

impl Server {
    /// Starts `nvstack serve IMAGE ARGS` and waits for its line.
    pub(crate) fn start(bin: &Path, image: &Path, args: &[&str]) -> Result<Server> {
        let mut serve = nvstack(bin, ["serve".as_ref(), image.as_os_str()]);
        serve.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = serve.spawn().context("nvstack serve")?;
        let errors = child.stderr.take();
        let stderr = thread::spawn(move || {
            let mut words = Vec::new();
            if let Some(mut errors) = errors {
                let _ = errors.read_to_end(&mut words);
            }
            String::from_utf8_lossy(&words).into_owned()
        });
        let mut server = Server { child, stderr: Some(stderr), uri: String::new(), size: 0, sector_size: 0 };
        let (send, receive) = channel();
        let output = server.child.stdout.take();
        thread::spawn(move || {
            let mut line = String::new();
            if let Some(output) = output {
                let _ = BufReader::new(output).read_line(&mut line);
            }
            let _ = send.send(line);
        });
        let line = receive.recv_timeout(READY).unwrap_or_default();
        let parsed: serde_json::Value = match serde_json::from_str(&line) {
            Ok(value) => value,
            Err(_) => {
                let words = server.destroy();
                return Err(format!("nvstack serve {} was not ready: {line}{words}", image.display()).into());
            }
        };
        let number = |key: &str| {
            let found = parsed.get(key).and_then(serde_json::Value::as_u64);
            found.ok_or_else(|| Failure::from(format!("the ready line has no number \"{key}\": {line}")))
        };
        let uri = parsed.get("uri").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        (server.size, server.sector_size) = (number("size")?, number("sector_size")?);
        ensure(!uri.is_empty(), || format!("the ready line has no uri: {line}"))?;
        server.uri = uri;
        Ok(server)
    }

    /// The path of the unix socket in the URI.
    pub(crate) fn socket(&self) -> Result<PathBuf> {
        let (_, path) = self.uri.split_once("socket=").ok_or("the URI names no socket")?;
        let path = path.split('&').next().unwrap_or(path);
        Ok(PathBuf::from(unescape(path)))
    }

    /// The export's name in the URI.
    pub(crate) fn export(&self) -> String {
        let path = self.uri.split_once(":///").map_or("", |(_, rest)| rest);
        unescape(path.split('?').next().unwrap_or(path))
    }

    /// Asks it to end by SIGTERM; it must end with 0 and leave no socket behind. Gives its words.
    pub(crate) fn stop(mut self) -> Result<String> {
        let socket = self.socket().ok();
        self.signal(Signal::TERM);
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().context("nvstack serve")? {
                break status;
            }
            if asked.elapsed() > STOP {
                return Err(format!("nvstack serve did not end on SIGTERM: {}", self.destroy()).into());
            }
            thread::sleep(Duration::from_millis(2));
        };
        let words = self.destroy();
        ensure(status.success(), || format!("nvstack serve ended with {status}: {words}"))?;
        let left = socket.filter(|path| path.exists());
        ensure(left.is_none(), || {
            format!("the socket {} is left behind", left.unwrap_or_default().display())
        })?;
        Ok(words)
    }

    /// kill -9, and nothing else. Its socket stays behind, as after a crash.
    pub(crate) fn kill(mut self) {
        self.destroy();
    }

    /// The process, for a thread that kills it.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    fn destroy(&mut self) -> String {
        kill_group(&mut self.child);
        let _ = self.child.wait();
        self.stderr.take().and_then(|words| words.join().ok()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.destroy();
    }
}

/// Undoes percent-encoding.
fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(part.bytes().skip(2));
            }
            None => {
                bytes.push(b'%');
                bytes.extend(part.bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn percent_encoding_is_undone() {
        assert_eq!(unescape("/tmp/a%20b%2Fc"), "/tmp/a b/c");
        assert_eq!(unescape("100%"), "100%");
        assert_eq!(unescape("%zz%41"), "%zzA");
    }
}
