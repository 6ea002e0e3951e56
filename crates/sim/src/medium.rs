// SPDX-License-Identifier: MIT OR Apache-2.0
//! The medium.

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvstack_media::{Domain, Error, Extent, Kind, Media, MediaOffset, Result, check_range};

use crate::image::{merge, units};
use crate::pending::{Pending, Store};
use crate::{Cuts, Image, Model, mix};

/// What is done to a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A store through the cache.
    Store,
    /// A store past the cache.
    Stream,
    /// Zeros past the cache.
    Zero,
    /// A flush of lines.
    Flush,
    /// A drain.
    Drain,
    /// A word is read.
    Load,
    /// Bytes are read. Tasks may run between the two halves of them.
    Read,
}

/// One operation, and where in the source it stands.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The task that does it.
    pub task: usize,
    /// What is done.
    pub operation: Operation,
    /// First byte.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// The line that asked for it.
    pub site: &'static Location<'static>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.site.file().rsplit('/').next().unwrap_or_default();
        write!(
            f,
            "task {} {:?} {:#x}+{} ({file}:{})",
            self.task,
            self.operation,
            self.at,
            self.len,
            self.site.line()
        )
    }
}

/// Is asked before each operation.
pub trait Hook: Send + Sync {
    /// The operation is about to happen. An error lets it fail, with nothing done.
    fn step(&self, event: &Event) -> Result<()>;

    /// The number of the running task, below 64.
    fn task(&self) -> usize;
}

struct State {
    /// What readers see.
    now: Image,
    /// What is surely durable.
    sure: Image,
    pending: Pending,
    /// For each task, a hash of all it did and saw.
    history: Vec<u64>,
    stores: u64,
    drains: u64,
    trace: Option<Vec<Event>>,
}

struct Shared {
    state: Mutex<State>,
    len: u64,
    /// None for memory: each store is durable at once.
    model: Option<Model>,
    domain: Domain,
    read_only: bool,
    hook: Option<Arc<dyn Hook>>,
}

/// A medium in plain memory whose power can be cut. Copies are the same medium.
#[derive(Clone)]
pub struct SimMedium(Arc<Shared>);

impl fmt::Debug for SimMedium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimMedium").field("model", &self.0.model).field("now", &self.lock().now).finish()
    }
}

/// How a medium is made.
impl SimMedium {
    fn with(
        image: Image,
        model: Option<Model>,
        domain: Domain,
        read_only: bool,
        hook: Option<Arc<dyn Hook>>,
    ) -> SimMedium {
        let len = image.len();
        let state = State {
            sure: image.clone(),
            now: image,
            pending: Pending::default(),
            history: Vec::new(),
            stores: 0,
            drains: 0,
            trace: None,
        };
        SimMedium(Arc::new(Shared { state: Mutex::new(state), len, model, domain, read_only, hook }))
    }

    /// One that holds an image, under a model.
    #[must_use]
    pub fn new(image: Image, model: Model) -> SimMedium {
        SimMedium::with(image, Some(model), model.domain(), false, None)
    }

    /// The same, with a hook.
    #[must_use]
    pub fn hooked(image: Image, model: Model, hook: Arc<dyn Hook>) -> SimMedium {
        SimMedium::with(image, Some(model), model.domain(), false, Some(hook))
    }

    /// One where each store is durable at once, that says it has the domain of a model.
    #[must_use]
    pub fn memory(image: Image, model: Model) -> SimMedium {
        SimMedium::with(image, None, model.domain(), false, None)
    }

    /// One that refuses stores.
    #[must_use]
    pub fn read_only_of(image: Image, model: Model) -> SimMedium {
        SimMedium::with(image, None, model.domain(), true, None)
    }
}

impl SimMedium {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way through a change.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same bytes after the process that stored them was killed, in the hands of another one: readers see all of its
    /// stores, and a cut may still take those that were not durable.
    #[must_use]
    pub fn survivor(&self, hook: Arc<dyn Hook>) -> SimMedium {
        let (len, model, domain) = (self.0.len, self.0.model, self.0.domain);
        let state = self.lock();
        let mut pending = state.pending.clone();
        pending.kill();
        let (now, sure) = (state.now.clone(), state.sure.clone());
        let state = State { now, sure, pending, history: Vec::new(), stores: 0, drains: 0, trace: None };
        SimMedium(Arc::new(Shared {
            state: Mutex::new(state),
            len,
            model,
            domain,
            read_only: false,
            hook: Some(hook),
        }))
    }

    /// A hash of what readers see, and of what a cut could take of it. Two media that have it in common survive alike.
    #[must_use]
    pub fn survival_hash(&self) -> u128 {
        let state = self.lock();
        let mut pending = state.pending.clone();
        pending.kill();
        let pending = pending.hash(self.0.model.unwrap_or(Model::X86));
        state.sure.hash() ^ (u128::from(mix(pending)) << 64 | u128::from(pending))
    }

    /// The bytes that readers see.
    #[must_use]
    pub fn image(&self) -> Image {
        self.lock().now.clone()
    }

    /// Every image that a power cut could leave now.
    #[must_use]
    pub fn cuts(&self) -> Cuts {
        let state = self.lock();
        let model = self.0.model.unwrap_or(Model::X86);
        let sure = if self.0.model.is_some() { &state.sure } else { &state.now };
        state.pending.cuts(model, sure)
    }

    /// Stores and drains so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.stores, state.drains)
    }

    /// Keeps every operation from now on, for [`SimMedium::trace`].
    pub fn record(&self) {
        self.lock().trace = Some(Vec::new());
    }

    /// What was done since [`SimMedium::record`].
    #[must_use]
    pub fn trace(&self) -> Vec<Event> {
        self.lock().trace.clone().unwrap_or_default()
    }

    /// A hash of what is durable, what is pending and how, and of all that the tasks did and saw. Two runs of the same tasks
    /// that have it in common have the same futures, and the same images at a cut.
    #[must_use]
    pub fn state_hash(&self) -> u128 {
        let state = self.lock();
        let pending = state.pending.hash(self.0.model.unwrap_or(Model::X86));
        let past = state.history.iter().fold(0, |h, task| mix(h ^ task));
        state.sure.hash()
            ^ (u128::from(mix(pending ^ past)) << 64 | u128::from(mix(past.wrapping_add(pending))))
    }

    fn task(&self) -> usize {
        self.0.hook.as_ref().map_or(0, |hook| hook.task() & 63)
    }

    fn step(
        &self,
        operation: Operation,
        at: u64,
        len: u64,
        site: &'static Location<'static>,
    ) -> Result<usize> {
        let task = self.task();
        let event = Event { task, operation, at, len, site };
        if let Some(hook) = &self.0.hook {
            hook.step(&event)?;
        }
        let mut state = self.lock();
        if let Some(trace) = &mut state.trace {
            trace.push(event);
        }
        Ok(task)
    }

    fn remember(state: &mut State, task: usize, words: &[u64]) {
        if state.history.len() <= task {
            state.history.resize(task + 1, 0);
        }
        state.history[task] = words.iter().fold(state.history[task], |h, w| mix(h ^ w));
    }

    fn put(
        &self,
        operation: Operation,
        at: MediaOffset,
        from: &[u8],
        site: &'static Location<'static>,
    ) -> Result<()> {
        check_range(self.0.len, "store", at, from.len() as u64)?;
        if self.0.read_only {
            return Err(Error::new(Kind::ReadOnly, "store").path(self.name()).at(at));
        }
        let task = match self.step(operation, at.0, from.len() as u64, site) {
            Ok(task) => task,
            Err(e) => {
                // A store of many bytes fails somewhere among them.
                let some = from.get(..from.len() / 16 * 8).unwrap_or_default();
                if !some.is_empty() {
                    self.move_in(operation, at, some, self.task(), site);
                }
                return Err(e);
            }
        };
        self.move_in(operation, at, from, task, site);
        match self.lock().now.first_lost(at.0, from.len() as u64) {
            Some(lost) => Err(Error::new(Kind::Poison, "store").path(self.name()).at(MediaOffset(lost))),
            None => Ok(()),
        }
    }

    fn move_in(
        &self,
        operation: Operation,
        at: MediaOffset,
        from: &[u8],
        task: usize,
        site: &'static Location<'static>,
    ) {
        let streamed = operation != Operation::Store;
        let mut state = self.lock();
        let state = &mut *state;
        state.stores += 1;
        Self::remember(state, task, &[operation as u64, at.0, from.len() as u64]);
        for (unit, value, mask) in units(at.0, from) {
            let now = state.now.unit(unit);
            if merge(now, value, mask) == now && (!streamed || state.pending.0.is_empty()) {
                // Nothing new, and nothing that was stored there before and is not durable.
                state.pending.touch(unit, self.0.model);
                if from.len() <= 8 {
                    Self::remember(state, task, &[value]);
                }
                continue;
            }
            if self.0.model.is_some() {
                let by = if streamed { 1 << task } else { 0 };
                state.pending.store(
                    Store { unit, value, mask, streamed, by, given_up: false, orphan: false, site },
                    now,
                );
            }
            state.now.set_unit(unit, merge(now, value, mask));
            if from.len() <= 8 {
                Self::remember(state, task, &[value]);
            }
        }
        for image in [&mut state.now, &mut state.sure] {
            image.heal(at.0, from.len() as u64);
        }
    }

    fn get(
        &self,
        operation: Operation,
        at: MediaOffset,
        into: &mut [u8],
        site: &'static Location<'static>,
    ) -> Result<()> {
        check_range(self.0.len, "read", at, into.len() as u64)?;
        let half = if operation == Operation::Read { into.len() / 16 * 8 } else { 0 };
        let (first, second) = into.split_at_mut(half);
        for (at, part) in [(at.0, first), (at.0 + half as u64, second)] {
            if part.is_empty() {
                continue;
            }
            let task = self.step(operation, at, part.len() as u64, site)?;
            let mut state = self.lock();
            let state = &mut *state;
            let lost = state.now.first_lost(at, part.len() as u64);
            state.now.read(at, part);
            if self.0.hook.is_some() {
                let seen = units(at, part)
                    .fold(operation as u64, |h, (u, v, _)| if v == 0 { h } else { mix(h ^ u ^ v) });
                Self::remember(state, task, &[at, seen, u64::from(lost.is_some())]);
            }
            if let Some(lost) = lost {
                return Err(Error::new(Kind::Poison, "read").path(self.name()).at(MediaOffset(lost)));
            }
        }
        Ok(())
    }

    fn flush_from(&self, at: MediaOffset, len: u64, site: &'static Location<'static>) -> Result<()> {
        check_range(self.0.len, "flush", at, len)?;
        let task = self.step(Operation::Flush, at.0, len, site)?;
        let mut state = self.lock();
        Self::remember(&mut state, task, &[Operation::Flush as u64, at.0, len]);
        if len > 0 {
            state.pending.flush(at.0 / 8, (at.0 + len - 1) / 8, 1 << task);
        }
        Ok(())
    }

    fn drain_from(&self, site: &'static Location<'static>) -> Result<()> {
        let task = match self.step(Operation::Drain, 0, 0, site) {
            Err(e) => {
                self.lock().pending.give_up(self.0.model);
                return Err(e);
            }
            Ok(task) => task,
        };
        let mut state = self.lock();
        let state = &mut *state;
        state.drains += 1;
        Self::remember(state, task, &[Operation::Drain as u64]);
        if let Some(model) = self.0.model {
            state.pending.drain(model, 1 << task, &mut state.sure, &state.now);
        }
        Ok(())
    }

    fn aligned(&self, at: MediaOffset, to: u64) -> Result<()> {
        if at.0.is_multiple_of(to) {
            return Ok(());
        }
        let accepted = format!("a multiple of {to}");
        Err(Error::new(Kind::Invalid, "access word").path(self.name()).found(at).accepted(accepted))
    }
}

impl Media for SimMedium {
    fn len(&self) -> u64 {
        self.0.len
    }

    fn read_only(&self) -> bool {
        self.0.read_only
    }

    fn domain(&self) -> Domain {
        self.0.domain
    }

    #[track_caller]
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.get(Operation::Read, at, into, Location::caller())
    }

    #[track_caller]
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.put(Operation::Store, at, from, Location::caller())
    }

    #[track_caller]
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.put(Operation::Stream, at, from, Location::caller())
    }

    #[track_caller]
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.0.len, "zero", at, len)?;
        let zeros = vec![0; usize::try_from(len).unwrap_or(0)];
        self.put(Operation::Zero, at, &zeros, Location::caller())
    }

    #[track_caller]
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.aligned(at, 4)?;
        let mut word = [0; 4];
        self.get(Operation::Load, at, &mut word, Location::caller())?;
        Ok(u32::from_le_bytes(word))
    }

    #[track_caller]
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.aligned(at, 4)?;
        self.put(Operation::Store, at, &value.to_le_bytes(), Location::caller())
    }

    #[track_caller]
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.aligned(at, 8)?;
        let mut word = [0; 8];
        self.get(Operation::Load, at, &mut word, Location::caller())?;
        Ok(u64::from_le_bytes(word))
    }

    #[track_caller]
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.aligned(at, 8)?;
        self.put(Operation::Store, at, &value.to_le_bytes(), Location::caller())
    }

    #[track_caller]
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.flush_from(at, len, Location::caller())
    }

    #[track_caller]
    fn drain(&self) -> Result<()> {
        self.drain_from(Location::caller())
    }

    #[track_caller]
    fn persist(&self, at: MediaOffset, len: u64) -> Result<()> {
        let site = Location::caller();
        self.flush_from(at, len, site)?;
        self.drain_from(site)
    }

    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.lock().now.lost(at.0, len)
    }

    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.0.len, "inject poison", at, len)?;
        let state = &mut *self.lock();
        for image in [&mut state.now, &mut state.sure] {
            image.lose(at.0, len);
        }
        Ok(())
    }

    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.0.len, "clear poison", at, len)?;
        let state = &mut *self.lock();
        for image in [&mut state.now, &mut state.sure] {
            image.heal(at.0, len);
        }
        Ok(())
    }

    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        check_range(self.0.len, "look for holes", at, len)?;
        let state = self.lock();
        let hole = state.now.is_hole(at.0);
        let end = at.0 + len;
        let mut to = at.0;
        while to < end && state.now.is_hole(to) == hole {
            to = (to / 4096 + 1) * 4096;
        }
        Ok(Extent { at, len: to.min(end) - at.0, hole })
    }

    fn name(&self) -> String {
        "simulated medium".to_owned()
    }
}
