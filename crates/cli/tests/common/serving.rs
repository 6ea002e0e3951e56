// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack serve` in the background.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::command;

/// A server in the background, ready.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) ready: Value,
}

impl Serving {
    pub(crate) fn start(args: &[&str]) -> Serving {
        Serving::spawn(command(["serve"].iter().chain(args)))
    }

    pub(crate) fn spawn(mut command: Command) -> Serving {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut err = String::new();
            child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
            panic!("not ready: {err}");
        }
        Serving { child, ready: serde_json::from_str(&line).unwrap() }
    }

    pub(crate) fn uri(&self) -> &str {
        self.ready["uri"].as_str().unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.uri().split_once("?socket=").unwrap().1.into()
    }

    pub(crate) fn kill(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it by a signal; its exit status, and what it said.
    pub(crate) fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        self.kill(signal);
        let status = self.child.wait().unwrap().code();
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (status, err)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Not SIGKILL, which would leave its socket behind.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}
