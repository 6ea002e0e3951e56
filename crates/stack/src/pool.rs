// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers for what may take long: probes. Bounded in number; one that hangs does not count.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::sync::{Condvar, Instant, Mutex, MutexGuard, thread};

/// A task that takes longer is taken to hang: another worker stands in for its own.
const STALL: Duration = Duration::from_millis(500);
/// How many workers there are at most, those that hang included.
const CEILING: usize = 256;

type Task = Box<dyn FnOnce() + Send>;

/// The workers. Threads exist only while there is work.
pub(crate) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    workers: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    /// When each running task began.
    running: Vec<(u64, Instant)>,
    next: u64,
    keeper: bool,
}

impl State {
    /// Workers that are not taken to hang.
    fn lively(&self) -> usize {
        self.running.iter().filter(|(_, since)| since.elapsed() < STALL).count()
    }
}

impl Pool {
    pub(crate) fn new(workers: usize) -> Arc<Pool> {
        Arc::new(Pool { state: Mutex::default(), changed: Condvar::new(), workers: workers.max(1) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a worker run the task, soon. If no thread can be had the caller runs it.
    pub(crate) fn submit(self: &Arc<Pool>, task: impl FnOnce() + Send + 'static) {
        self.lock().queue.push_back(Box::new(task));
        self.help();
    }

    /// Workers that exist, hanging or not.
    pub(crate) fn threads(&self) -> usize {
        let state = self.lock();
        state.running.len() + usize::from(state.keeper)
    }

    /// Starts as many workers as there is work for.
    fn help(self: &Arc<Pool>) {
        loop {
            let mut state = self.lock();
            if state.queue.is_empty() {
                return;
            }
            if state.lively() >= self.workers || state.running.len() >= CEILING {
                if !state.keeper {
                    state.keeper = true;
                    drop(state);
                    let pool = Arc::clone(self);
                    let started = thread::Builder::new().name("nd-keeper".into()).spawn(move || pool.keep());
                    if started.is_err() {
                        self.lock().keeper = false;
                    }
                }
                return;
            }
            let Some(task) = state.queue.pop_front() else { return };
            let id = state.next;
            state.next = state.next.wrapping_add(1);
            state.running.push((id, Instant::now()));
            drop(state);
            let pool = Arc::clone(self);
            let task = Arc::new(Mutex::new(Some(task)));
            let handed = Arc::clone(&task);
            let started = thread::Builder::new().name("nd-probe".into()).spawn(move || {
                let mut task = handed.lock().unwrap_or_else(PoisonError::into_inner).take();
                while let Some(next) = task {
                    next();
                    task = pool.next(id);
                }
            });
            if started.is_err() {
                let task = task.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(task) = task {
                    task();
                }
                self.finish(id);
            }
        }
    }

    /// The next task of a worker; none if it is to end.
    fn next(&self, id: u64) -> Option<Task> {
        let mut state = self.lock();
        let stands_in = state.running.iter().position(|(other, _)| *other == id);
        let crowded = state.lively() > self.workers;
        match state.queue.pop_front() {
            Some(task) if !crowded => {
                if let Some((_, since)) = stands_in.and_then(|at| state.running.get_mut(at)) {
                    *since = Instant::now();
                }
                Some(task)
            }
            other => {
                state.queue.extend(other);
                drop(state);
                self.finish(id);
                None
            }
        }
    }

    fn finish(&self, id: u64) {
        self.lock().running.retain(|(other, _)| *other != id);
        self.changed.notify_all();
    }

    /// Looks, while tasks wait for workers, whether one hangs.
    fn keep(self: &Arc<Pool>) {
        loop {
            let state = self.lock();
            let waited = self.changed.wait_timeout(state, STALL / 5);
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.queue.is_empty() {
                state.keeper = false;
                return;
            }
            drop(state);
            self.help();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    fn idle(pool: &Arc<Pool>) {
        while pool.threads() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn no_more_tasks_run_at_once_than_there_are_workers() {
        let pool = Pool::new(3);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (done, all) = mpsc::channel();
        for _ in 0..100 {
            let (now, most, done) = (Arc::clone(&now), Arc::clone(&most), done.clone());
            pool.submit(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                done.send(()).unwrap();
            });
        }
        for _ in 0..100 {
            all.recv().unwrap();
        }
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
        idle(&pool);
    }

    #[test]
    fn tasks_that_hang_hold_up_no_other() {
        let pool = Pool::new(2);
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        let (done, all) = mpsc::channel();
        for _ in 0..5 {
            let hang = Arc::clone(&hang);
            pool.submit(move || assert!(hang.lock().unwrap().recv().is_err()));
        }
        for n in 0..20 {
            let done = done.clone();
            pool.submit(move || done.send(n).unwrap());
        }
        // All twenty come through although every worker, and those that stood in for them, hang.
        assert_eq!(all.iter().take(20).count(), 20);
        drop(release);
        idle(&pool);
    }
}
