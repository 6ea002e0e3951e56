// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running a target so that what it does wrong is seen, wherever it does it.
#![allow(dead_code, unreachable_pub)]

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use nvstack_hostile::Target;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// An input that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Address space: an allocation that the input chose ends in an error here, and not in the machine's swap.
const MEMORY: u64 = 6 << 30;

/// Panics of threads that a target starts, told of by the hook: those that an engine contains count too.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Whose they are: such targets run one at a time.
static THREADS: Mutex<()> = Mutex::new(());
/// What each thread is at: when it began (in ms), and with what.
static RUNNING: Mutex<Vec<(u64, Instant, PathBuf)>> = Mutex::new(Vec::new());

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// What this thread's own panics said.
    static OWN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn findings() -> PathBuf {
    std::env::temp_dir().join(format!("nvstack-hostile-{}", std::process::id()))
}

/// Where the committed inputs are.
pub fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The committed inputs of a target, and what once was a finding.
pub fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for folder in ["corpus", "regressions"] {
        let folder = fuzz_folder().join(folder).join(name);
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            let input = std::fs::read(&path).expect("an input");
            found.push((path, input));
        }
    }
    found.sort();
    found
}

/// Writes an input where it can be run again.
pub fn keep(name: &str, input: &[u8]) -> PathBuf {
    let folder = findings();
    std::fs::create_dir_all(&folder).expect("a folder");
    let path =
        folder.join(format!("{name}-{:016x}", nvstack_hostile::naive::fletcher64(input, usize::MAX - 8)));
    std::fs::write(&path, input).expect("a file");
    path
}

fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = getrlimit(Resource::As);
        let _ = setrlimit(Resource::As, Rlimit { current: Some(MEMORY), ..limit });
        std::panic::set_hook(Box::new(|info| {
            if GUARDED.get() {
                OWN.with_borrow_mut(|own| own.push(info.to_string()));
            } else {
                PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
                eprintln!("{info}");
            }
        }));
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((_, _, path)) = running.iter().find(|(_, began, _)| began.elapsed() > PATIENCE) {
                    eprintln!("hangs: {}", path.display());
                    std::process::abort();
                }
            }
        });
    });
}

/// Runs a target. An error is what a panic said.
pub fn guarded(target: &Target, input: &[u8]) -> Result<(), String> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    prepare();
    let _alone = target.threads.then(|| THREADS.lock().unwrap_or_else(PoisonError::into_inner));
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let watched = Watched::new(number, target.name, input);
    let panics = || std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    if target.threads {
        panics();
    }
    GUARDED.set(true);
    let outcome = std::panic::catch_unwind(|| (target.run)(input));
    GUARDED.set(false);
    drop(watched);
    let mut told = OWN.take();
    if target.threads {
        told.extend(panics());
    }
    if outcome.is_ok() && told.is_empty() { Ok(()) } else { Err(told.join("\n")) }
}

/// An input that is being run; kept in memory, and written down only by the one that finds that it hangs.
struct Watched(u64);

impl Watched {
    fn new(number: u64, name: &str, input: &[u8]) -> Watched {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let shown: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        running.push((number, Instant::now(), PathBuf::from(format!("{name} {shown}"))));
        Watched(number)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|(number, ..)| *number != self.0);
    }
}
