// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to devices, for whoever wants to know: the uevents of Linux, and changes of attributes that can be polled.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::sync::{Condvar, Instant, Mutex, MutexGuard};

/// Events that a subscriber may leave unread. One that leaves more loses its subscription rather than memory.
const BACKLOG: usize = 65_536;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A device came into the tree.
    Add,
    /// A driver took it.
    Bind,
    /// Its driver let it go.
    Unbind,
    /// It left the tree.
    Remove,
    /// Something of it changed: its attribute, or a driver gave it up.
    Change,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Add => "add",
            Action::Bind => "bind",
            Action::Unbind => "unbind",
            Action::Remove => "remove",
            Action::Change => "change",
        })
    }
}

/// An event, as a uevent tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts up by one with each event of a machine (`SEQNUM`).
    pub sequence: u64,
    /// What happened (`ACTION`).
    pub action: Action,
    /// The device: `namespace0.1`.
    pub name: String,
    /// Its place below `/sys`, with a slash in front (`DEVPATH`).
    pub devpath: String,
    /// `nd`, or `block` for a disk (`SUBSYSTEM`).
    pub subsystem: &'static str,
    /// What else a uevent carries: `DEVTYPE`, `DRIVER`, `MODALIAS`, and with a change why or of which attribute.
    pub variables: Vec<(&'static str, String)>,
}

/// Who is told, and how often each attribute that can be polled has changed.
#[derive(Default)]
pub(crate) struct Events {
    state: Mutex<State>,
    polled: Condvar,
}

#[derive(Default)]
struct State {
    sequence: u64,
    subscribers: Vec<SyncSender<Event>>,
    changes: BTreeMap<String, u64>,
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All events from now on.
    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(BACKLOG);
        self.lock().subscribers.push(sender);
        receiver
    }

    /// Tells an event; its sequence number is given here.
    pub(crate) fn tell(&self, mut event: Event) {
        let mut state = self.lock();
        state.sequence += 1;
        event.sequence = state.sequence;
        state.subscribers.retain(|to| {
            !matches!(to.try_send(event.clone()), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
        });
    }

    /// Tells that an attribute (`region0/badblocks`) reads otherwise now.
    pub(crate) fn changed(&self, attribute: &str) {
        *self.lock().changes.entry(attribute.to_owned()).or_default() += 1;
        self.polled.notify_all();
    }

    /// How often an attribute has changed.
    pub(crate) fn changes(&self, attribute: &str) -> u64 {
        self.lock().changes.get(attribute).copied().unwrap_or(0)
    }

    /// Waits until an attribute has changed more often than `seen`, for at most `limit`; gives the count.
    pub(crate) fn poll(&self, attribute: &str, seen: u64, limit: Duration) -> u64 {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            let now = state.changes.get(attribute).copied().unwrap_or(0);
            let left = until.saturating_duration_since(Instant::now());
            if now > seen || left.is_zero() {
                return now;
            }
            state = self.polled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
