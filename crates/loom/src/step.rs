// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for a lock, where the checker decides who goes on: the locks' own calls. The module of this name in the engine has
//! in addition the hooks of another simulator.

use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, thread};

#[track_caller]
pub(crate) fn write<T: Clone + Default>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
pub(crate) fn read<T: Clone + Default>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
pub(crate) fn turn<T: Clone>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn wait() {
    thread::yield_now();
}

pub(crate) fn point() {}

pub(crate) fn simulated() -> bool {
    false
}
