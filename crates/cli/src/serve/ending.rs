// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ends the server: a signal, or the end of the command of `--run`.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use nvstack_media::{Error, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// The signals that end the server, caught from here on.
pub(crate) struct Ending {
    signals: Signals,
}

impl Ending {
    /// Catches SIGTERM and SIGINT. Either ends the server in order; more of them change nothing, since supervisors and
    /// terminals like to send several at once. What drains has a time limit, so there is an end.
    pub(crate) fn catch() -> Result<Ending> {
        Ok(Ending { signals: Signals::new([SIGTERM, SIGINT]).map_err(|e| Error::os("catch signals", e))? })
    }

    /// What ends the waiting when the server has ended by itself.
    pub(crate) fn handle(&self) -> Handle {
        self.signals.handle()
    }

    /// Waits for a signal, or for the handle to be closed.
    pub(crate) fn wait(mut self) {
        let _ = self.signals.forever().next();
    }

    /// Runs a command with `variables` in its environment until it ends, and gives its exit status as a shell does. A
    /// signal to us is passed on to it; the server ends when it does.
    pub(crate) fn wait_for(mut self, command: &str, variables: &[(&str, String)]) -> Result<u8> {
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(command)
            .envs(variables.iter().map(|(k, v)| (k, v)))
            .spawn()
            .map_err(|e| Error::os("run sh", e))?;
        // A descriptor, not a number: it never comes to mean another process.
        let pidfd = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let handle = self.signals.handle();
        let passer = std::thread::spawn(move || {
            for _ in self.signals.forever() {
                if let Some(child) = &pidfd {
                    let _ = pidfd_send_signal(child, Signal::TERM);
                }
            }
        });
        let status = child.wait();
        handle.close();
        let _ = passer.join();
        status.map(shell_status).map_err(|e| Error::os("wait for sh", e))
    }
}

/// What a shell's `$?` would be: the status, or 128 and the signal.
fn shell_status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}
