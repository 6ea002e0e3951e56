// SPDX-License-Identifier: MIT OR Apache-2.0
//! A model checker's locks and atomics, in the place of the standard library's: with switches that break them. The checker
//! is `crate::checker`.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, TryLockError, TryLockResult};
use std::time::Duration;

use crate::checker;

pub(crate) use crate::checker::hint::spin_loop;
pub(crate) use crate::{SHARDS, STRIPES};
pub(crate) use std::sync::OnceLock;

/// What can be left out of the protocols, by leaving it out of the primitives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Who tries a lock gets it, though somebody has it: two writers in one lane (Linux, 2023 to 2026).
    TryLock,
    /// Who waits for a lock that guards no data, a turn, does not wait.
    Turn,
    /// Who locks for writing locks nobody out.
    Claim,
    /// Who locks for reading locks nobody out.
    Share,
    /// Fences are none.
    Fence,
    /// Loads are relaxed.
    Acquire,
    /// Stores are relaxed.
    Release,
    /// Atomic words read as zero: who looks whether somebody reads his block sees nobody.
    Unseen,
    /// A flag that was set is not seen.
    Unset,
    /// The second look at a map entry sees what the first saw.
    Look,
    /// Who is to be woken is not.
    Notify,
}

std::thread_local! {
    // Checkers run all threads of a model on this one.
    static BROKEN: Cell<Option<Break>> = const { Cell::new(None) };
    static NUMBERED: Cell<usize> = const { Cell::new(0) };
    static PASSES: Cell<bool> = const { Cell::new(false) };
}

/// Breaks something from now on, or nothing any more.
pub(crate) fn set_broken(what: Option<Break>) {
    BROKEN.set(what);
}

pub(crate) fn broken(what: Break) -> bool {
    BROKEN.get() == Some(what)
}

/// To be called as each execution begins.
pub(crate) fn begin() {
    NUMBERED.set(0);
    PASSES.set(false);
}

crate::checker::thread_local! {
    static NUMBER: usize = {
        let number = NUMBERED.get();
        NUMBERED.set(number + 1);
        number
    };
}

/// The number of this thread among those that have asked, from 0.
pub(crate) fn thread_number() -> usize {
    NUMBER.with(|number| *number)
}

macro_rules! local {
    ($(#[$attr:meta])* static $name:ident : $type:ty = const { $init:expr }; $($rest:tt)*) => {
        crate::checker::thread_local! { $(#[$attr])* static $name: $type = $init; }
        $crate::sync::thread_local! { $($rest)* }
    };
    () => {};
}
pub(crate) use local as thread_local;

/// A copy of what a lock guards, for who got it without waiting; it is put back in the end.
pub(crate) struct Raced<'a, T: Clone, L: Lock<T>>(T, &'a L);

/// Where a copy is put back.
pub(crate) trait Lock<T> {
    fn put(&self, value: T);
}

impl<T: Clone, L: Lock<T>> Drop for Raced<'_, T, L> {
    fn drop(&mut self) {
        // A turn holds nothing to be put back. And who is cut off puts nothing back either.
        if size_of::<T>() > 0 && !std::thread::panicking() {
            self.1.put(self.0.clone());
        }
    }
}

/// A lock whose contents can be copied.
#[derive(Default)]
pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

pub(crate) enum MutexGuard<'a, T: Clone> {
    Locked(checker::sync::MutexGuard<'a, T>),
    Raced(Raced<'a, T, Mutex<T>>),
}

impl<T> Lock<T> for Mutex<T> {
    fn put(&self, value: T) {
        *self.0.lock().unwrap() = value;
    }
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(checker::sync::Mutex::new(value))
    }
}

impl<T: Clone> Mutex<T> {
    #[track_caller]
    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        if broken(Break::Turn) && size_of::<T>() == 0 {
            return Ok(self.raced());
        }
        Ok(MutexGuard::Locked(self.0.lock().unwrap()))
    }

    #[track_caller]
    pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        if broken(Break::TryLock) {
            return Ok(self.raced());
        }
        self.0.try_lock().map(MutexGuard::Locked).map_err(|_| TryLockError::WouldBlock)
    }

    fn raced(&self) -> MutexGuard<'_, T> {
        let value = self.0.lock().unwrap().clone();
        MutexGuard::Raced(Raced(value, self))
    }
}

/// A lock that readers share.
#[derive(Default)]
pub(crate) struct RwLock<T: Default>(checker::sync::RwLock<T>);

pub(crate) enum RwLockReadGuard<'a, T: Clone> {
    Locked(checker::sync::RwLockReadGuard<'a, T>),
    Raced(T),
}

pub(crate) enum RwLockWriteGuard<'a, T: Clone + Default> {
    Locked(checker::sync::RwLockWriteGuard<'a, T>),
    Raced(Raced<'a, T, RwLock<T>>),
}

impl<T: Default> Lock<T> for RwLock<T> {
    fn put(&self, value: T) {
        *self.0.write().unwrap() = value;
    }
}

impl<T: Clone + Default> RwLock<T> {
    pub(crate) fn new(value: T) -> RwLock<T> {
        RwLock(checker::sync::RwLock::new(value))
    }

    #[track_caller]
    pub(crate) fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        let guard = self.0.read().unwrap();
        Ok(if broken(Break::Share) {
            RwLockReadGuard::Raced(guard.clone())
        } else {
            RwLockReadGuard::Locked(guard)
        })
    }

    #[track_caller]
    pub(crate) fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        let guard = self.0.try_read().map_err(|_| TryLockError::WouldBlock)?;
        Ok(if broken(Break::Share) {
            RwLockReadGuard::Raced(guard.clone())
        } else {
            RwLockReadGuard::Locked(guard)
        })
    }

    #[track_caller]
    pub(crate) fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        if broken(Break::Claim) {
            let value = self.0.read().unwrap().clone();
            return Ok(RwLockWriteGuard::Raced(Raced(value, self)));
        }
        Ok(RwLockWriteGuard::Locked(self.0.write().unwrap()))
    }
}

macro_rules! deref {
    ($($guard:ident<T: $first:ident $(+ $bound:ident)*> $(, $raced:ident)?;)*) => {$(
        impl<T: $first $(+ $bound)*> Deref for $guard<'_, T> {
            type Target = T;

            fn deref(&self) -> &T {
                match self {
                    $guard::Locked(guard) => guard,
                    $guard::Raced(raced) => deref!(@read raced $($raced)?),
                }
            }
        }
        deref!(@mut $guard<T: $first $(+ $bound)*> $(, $raced)?);
    )*};
    (@read $raced:ident mutable) => { &$raced.0 };
    (@read $raced:ident) => { $raced };
    (@mut $guard:ident<T: $first:ident $(+ $bound:ident)*>, $mutable:ident) => {
        impl<T: $first $(+ $bound)*> DerefMut for $guard<'_, T> {
            fn deref_mut(&mut self) -> &mut T {
                match self {
                    $guard::Locked(guard) => guard,
                    $guard::Raced(raced) => &mut raced.0,
                }
            }
        }
    };
    (@mut $guard:ident<T: $first:ident $(+ $bound:ident)*>) => {};
}

deref! {
    MutexGuard<T: Clone>, mutable;
    RwLockReadGuard<T: Clone>;
    RwLockWriteGuard<T: Clone + Default>, mutable;
}

/// Time does not pass in a model, so nobody's patience ends: who is to wake has to be woken.
pub(crate) struct Condvar(checker::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(checker::sync::Condvar::new())
    }

    pub(crate) fn notify_all(&self) {
        if !broken(Break::Notify) {
            self.0.notify_all();
        }
    }

    #[track_caller]
    pub(crate) fn wait_timeout_while<'a, T: Clone>(
        &self,
        mut guard: MutexGuard<'a, T>,
        _: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        while condition(&mut guard) {
            let MutexGuard::Locked(locked) = guard else { unreachable!("a wait without the lock") };
            guard = MutexGuard::Locked(self.0.wait(locked).unwrap());
        }
        Ok((guard, false))
    }
}

/// Atomics, whose orders can be weakened.
pub(crate) mod atomic {
    use super::{Break, broken};
    use crate::checker;

    pub(crate) use std::sync::atomic::Ordering;

    fn loads(order: Ordering) -> Ordering {
        if broken(Break::Acquire) { Ordering::Relaxed } else { order }
    }

    fn stores(order: Ordering) -> Ordering {
        if broken(Break::Release) { Ordering::Relaxed } else { order }
    }

    /// Between what came before and what comes after.
    #[track_caller]
    pub(crate) fn fence(order: Ordering) {
        if !broken(Break::Fence) {
            checker::sync::atomic::fence(order);
        }
    }

    macro_rules! atomics {
        ($($name:ident $value:ty, $unseen:ident;)*) => {$(
            pub(crate) struct $name(checker::sync::atomic::$name);

            impl $name {
                #[track_caller]
                pub(crate) fn new(value: $value) -> $name {
                    $name(checker::sync::atomic::$name::new(value))
                }

                #[track_caller]
                pub(crate) fn load(&self, order: Ordering) -> $value {
                    let value = self.0.load(loads(order));
                    if broken(Break::$unseen) { <$value>::default() } else { value }
                }

                #[track_caller]
                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    self.0.store(value, stores(order));
                }

                #[track_caller]
                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.0.swap(value, order)
                }
            }
        )*};
    }

    atomics! {
        AtomicU64 u64, Unseen;
        AtomicUsize usize, Unseen;
        AtomicBool bool, Unset;
    }

    macro_rules! numbers {
        ($($name:ident $value:ty;)*) => {$(
            impl $name {
                #[track_caller]
                pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_add(value, order)
                }

                #[track_caller]
                pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.0.fetch_sub(value, order)
                }

                #[track_caller]
                pub(crate) fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    next: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    self.0.fetch_update(set, fetch, next)
                }
            }
        )*};
    }

    numbers! {
        AtomicU64 u64;
        AtomicUsize usize;
    }
}

/// Threads, for whom time does not pass.
pub(crate) mod thread {
    use std::io;
    use std::time::Duration;

    use crate::checker;

    pub(crate) use crate::checker::thread::{JoinHandle, yield_now};

    pub(crate) struct Builder;

    impl Builder {
        pub(crate) fn new() -> Builder {
            Builder
        }

        pub(crate) fn name(self, _: String) -> Builder {
            self
        }

        pub(crate) fn spawn<T: Send + 'static>(
            self,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            Ok(checker::thread::spawn(work))
        }
    }

    /// Waits to be told, or for a time that is over soon.
    #[track_caller]
    pub(crate) fn park_timeout(_: Duration) {
        if super::PASSES.get() { yield_now() } else { checker::thread::park() }
    }

    /// Lets time pass in this execution.
    pub(crate) fn let_time_pass() {
        super::PASSES.set(true);
    }
}
