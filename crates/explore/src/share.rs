// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workloads, shared by threads until they are done, one fails, time runs out, or somebody says stop.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nvstack_media::{Error, Result};
use nvstack_sim::Lost;
use serde::Serialize;

/// When to end, and how many share.
pub(crate) struct Limits<'a> {
    pub(crate) threads: usize,
    pub(crate) stop_at_first: bool,
    /// No job is begun after this.
    pub(crate) stop_at: Option<Instant>,
    /// No job is begun once this is set.
    pub(crate) stop: &'a AtomicBool,
}

/// What came of the jobs that were begun.
pub(crate) struct Done<C, V> {
    pub(crate) workloads: usize,
    pub(crate) counts: C,
    /// Failures with the number of their job.
    pub(crate) found: Vec<(usize, V)>,
    pub(crate) out_of_time: bool,
    pub(crate) interrupted: bool,
}

/// Goes through jobs in their order. `enter` prepares a thread, and what it gives is dropped when the thread is done; `add` adds up
/// what jobs count; `progress` is told how many are done, after each.
pub(crate) fn share<J: Sync, C: Default + Send, V: Send, G>(
    jobs: &[J],
    limits: &Limits<'_>,
    enter: impl Fn() -> G + Sync,
    explore: impl Fn(&J) -> Result<(C, Option<V>)> + Sync,
    add: impl Fn(&mut C, &C) + Sync,
    progress: impl Fn(usize, &C) + Sync,
) -> Result<Done<C, V>> {
    let (next, failed, late) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let total = Mutex::new((0usize, C::default(), Vec::<(usize, V)>::new(), None::<Error>));
    let work = || {
        let _entered = enter();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(number) else { return };
            if limits.stop_at_first && failed.load(Ordering::Relaxed) || limits.stop.load(Ordering::Relaxed) {
                return;
            }
            if limits.stop_at.is_some_and(|at| Instant::now() >= at) {
                late.store(true, Ordering::Relaxed);
                return;
            }
            let outcome = explore(job);
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok((counts, worst)) => {
                    total.0 += 1;
                    add(&mut total.1, &counts);
                    failed.fetch_or(worst.is_some(), Ordering::Relaxed);
                    total.2.extend(worst.map(|v| (number, v)));
                }
                Err(e) => {
                    total.3.get_or_insert(e);
                    failed.store(true, Ordering::Relaxed);
                }
            }
            progress(total.0, &total.1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..limits.threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    let (workloads, counts, found, error) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(e) = error {
        return Err(e);
    }
    let interrupted = limits.stop.load(Ordering::Relaxed);
    Ok(Done { workloads, counts, found, out_of_time: late.into_inner(), interrupted })
}

/// A failure, as a summary tells it.
#[derive(Clone, Debug, Serialize)]
pub struct ViolationSummary {
    /// The line for `replay`.
    pub seed: String,
    /// What was wrong.
    pub what: String,
    /// What was done.
    pub workload: String,
    /// The stores that the image does not have: offset, value, and source line.
    pub lost: Vec<String>,
}

/// A lost store as text.
pub(crate) fn line(lost: &Lost) -> String {
    let file = lost.site.file().rsplit('/').next().unwrap_or_default();
    format!("{:#x} = {:#018x} from {file}:{}", lost.at, lost.value, lost.site.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(threads: usize, stop_at_first: bool, stop_in: usize) -> Done<usize, usize> {
        let stop = AtomicBool::new(false);
        let limits = Limits { threads, stop_at_first, stop_at: None, stop: &stop };
        let jobs: Vec<usize> = (0..100).collect();
        share(
            &jobs,
            &limits,
            || (),
            |job| {
                stop.fetch_or(*job == stop_in, Ordering::Relaxed);
                Ok((1, (*job == 40 || *job == 70).then_some(*job)))
            },
            |sum, more| *sum += more,
            |_, _| (),
        )
        .unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn jobs_are_done_until_one_fails_or_somebody_says_stop() {
        for threads in [1, 3] {
            let all = shared(threads, false, 1000);
            assert_eq!((all.workloads, all.counts, all.found.len(), all.interrupted), (100, 100, 2, false));
            let first = shared(threads, true, 1000);
            assert!((41..44).contains(&first.workloads) && first.found == [(40, 40)], "{}", first.workloads);
            let stopped = shared(threads, false, 10);
            assert!((11..14).contains(&stopped.workloads) && stopped.interrupted, "{}", stopped.workloads);
        }
    }
}
