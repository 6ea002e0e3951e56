// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running other programs: never with our stdin, always with a time limit, and with nothing left behind.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::report::{Context, Failure, Result};

/// How long the pipes of a program that has ended may take to close: its group is dead, only a daemon could hold them.
const PIPES: Duration = Duration::from_secs(10);

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Both outputs, for a message.
    pub(crate) fn words(&self) -> String {
        let mut words = String::new();
        for text in [&self.stdout, &self.stderr] {
            let text = text.trim();
            if !text.is_empty() {
                let skip = text.lines().count().saturating_sub(40);
                let _ = write!(words, "\n{}", text.lines().skip(skip).collect::<Vec<_>>().join("\n"));
            }
        }
        words
    }
}

/// A command with the arguments given, for the calls that need nothing else.
pub(crate) fn command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Runs to the end, in a process group of its own that is gone afterwards. Not to end within the limit is a failure.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Ran> {
    match run_or_stop(command, limit)? {
        (ran, true) => Ok(ran),
        (ran, false) => {
            Err(format!("{}: not done after {} s{}", shown(command), limit.as_secs(), ran.words()).into())
        }
    }
}

/// As [`run`], and says whether it ended by itself.
pub(crate) fn run_or_stop(command: &mut Command, limit: Duration) -> Result<(Ran, bool)> {
    let name = shown(command);
    let started = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context(&name)?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = loop {
        if let Some(status) = child.try_wait().context(&name)? {
            break Some(status);
        }
        if started.elapsed() > limit {
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    // A program left in the background would hold the pipes open; its leader has ended or is out of time.
    kill_group(&mut child);
    let ended = child.wait().context(&name)?;
    let ran = Ran {
        status: status.unwrap_or(ended),
        stdout: stdout.recv_timeout(PIPES).unwrap_or_default(),
        stderr: stderr.recv_timeout(PIPES).unwrap_or_default(),
    };
    Ok((ran, status.is_some()))
}

/// Runs until it has printed a line that begins with `mark`, does `then` with the process group that it leads, and kills it. Gives
/// whether it lived that long; the limit is for the line.
pub(crate) fn run_and_kill(
    command: &mut Command,
    mark: &str,
    limit: Duration,
    then: impl FnOnce(Pid) -> Result<()>,
) -> Result<(Ran, bool)> {
    let name = shown(command);
    let started = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context(&name)?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let stderr = collect(child.stderr.take());
    let lines = lines(child.stdout.take());
    let (mut stdout, mut marked) = (String::new(), false);
    while !marked && started.elapsed() < limit {
        match lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(line) => {
                marked = line.starts_with(mark);
                stdout.push_str(&line);
            }
            Err(_) => break,
        }
    }
    let done = match group {
        Some(group) if marked => then(group),
        _ => Ok(()),
    };
    kill_group(&mut child);
    let status = child.wait().context(&name)?;
    done.context(&name)?;
    while let Ok(line) = lines.recv_timeout(PIPES) {
        stdout.push_str(&line);
    }
    let lived = marked && status.signal() == Some(Signal::KILL.as_raw());
    Ok((Ran { status, stdout, stderr: stderr.recv_timeout(PIPES).unwrap_or_default() }, lived))
}

/// As [`run`], and a status other than 0 is a failure that shows what the program said.
pub(crate) fn succeed(command: &mut Command, limit: Duration) -> Result<Ran> {
    let ran = run(command, limit)?;
    if ran.status.success() {
        return Ok(ran);
    }
    Err(format!("{}: {}{}", shown(command), ran.status, ran.words()).into())
}

/// Kills the group that a child leads. Nothing to kill is as good.
pub(crate) fn kill_group(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// A command line as one would type it, shortened where a script is an argument.
pub(crate) fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        let first = arg.lines().next().unwrap_or("''");
        let more = if arg.lines().count() > 1 { " ..." } else { "" };
        let _ = write!(line, " {first}{more}");
    }
    line
}

/// The SHA-256 of a file, in hexadecimal, by coreutils.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let ran =
        succeed(&mut command("sha256sum", [OsStr::new("-b"), path.as_os_str()]), Duration::from_secs(120))?;
    ran.stdout
        .split_whitespace()
        .next()
        .map(|digest| digest.trim_start_matches('\\').to_owned())
        .ok_or_else(|| Failure::from(format!("sha256sum said nothing about {}", path.display())))
}

/// The SHA-256 of bytes.
pub(crate) fn sha256_of(bytes: &[u8]) -> Result<String> {
    let mut file = tempfile::NamedTempFile::new().context("a temporary file")?;
    file.write_all(bytes).context("a temporary file")?;
    sha256(file.path())
}

/// The lines of a pipe as they come, until it ends.
fn lines(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let Some(pipe) = pipe else { return };
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            match pipe.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if send.send(String::from_utf8_lossy(&line).replace('\r', "")).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    receive
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let mut part = [0; 4096];
            loop {
                match pipe.read(&mut part) {
                    Ok(0) => break,
                    Ok(n) => bytes.extend(part.iter().take(n)),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_stopped_with_its_children() {
        let started = Instant::now();
        let error =
            run(&mut command("sh", ["-c", "echo early; sleep 60 & sleep 60"]), Duration::from_millis(200))
                .expect_err("the limit is shorter");
        assert!(error.to_string().contains("early"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_background_child_does_not_hold_the_caller() {
        let started = Instant::now();
        let ran = succeed(&mut command("sh", ["-c", "sleep 60 & echo done"]), Duration::from_secs(30))
            .expect("ends");
        assert_eq!(ran.stdout, "done\n");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn what_is_to_be_killed_is_killed_behind_its_line_and_not_before() {
        let limit = Duration::from_secs(30);
        let script = "echo one; echo @NOW; while :; do sleep 1; done";
        let (ran, lived) = run_and_kill(&mut command("sh", ["-c", script]), "@NOW", limit, |group| {
            assert!(group.as_raw_nonzero().get() > 1);
            Ok(())
        })
        .expect("runs");
        assert!(lived && ran.stdout.starts_with("one\n@NOW\n"), "{ran:?}");
        let ended = |script| {
            run_and_kill(&mut command("sh", ["-c", script]), "@NOW", limit, |_| {
                thread::sleep(Duration::from_millis(300));
                Ok(())
            })
            .expect("runs")
        };
        assert!(!ended("echo early").1, "it never said so");
        assert!(!ended("echo @NOW; exit 3").1, "it ended by itself");
    }

    #[test]
    fn a_status_and_the_words_are_reported() {
        let error = succeed(&mut command("sh", ["-c", "echo why >&2; exit 3"]), Duration::from_secs(30))
            .expect_err("status 3");
        assert!(error.to_string().contains('3') && error.to_string().contains("why"), "{error}");
        assert_eq!(
            sha256_of(b"abc").expect("sha256sum runs"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
