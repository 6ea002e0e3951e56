// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate of a device: who is inside is waited for, and nobody comes later.

use std::sync::{Arc, OnceLock, Weak};

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use nvstack_block::{BlockDevice, Lba};
use nvstack_media::Kind;

use super::device::Device;
use crate::gate::Gate;

struct Shared {
    gate: Gate,
    removed: Arc<AtomicUsize>,
    device: Weak<Device>,
}

fn shared(within: impl Fn() + Send + Sync + 'static) -> Arc<Shared> {
    let removed = Arc::new(AtomicUsize::new(0));
    let device = Arc::new(Device { removed: Arc::clone(&removed), within: Box::new(within) });
    let weak = Arc::downgrade(&device);
    Arc::new(Shared { gate: Gate::new(device, "gate"), removed, device: weak })
}

impl Shared {
    /// True if the device was there.
    fn read(&self) -> bool {
        match self.gate.read(Lba(0), &mut []) {
            Ok(()) => true,
            Err(e) => {
                assert_eq!(e.kind(), Kind::Gone);
                false
            }
        }
    }

    fn close(&self) {
        self.gate.close().unwrap();
        self.removed.store(1, Ordering::SeqCst);
        assert!(!self.read(), "an operation after the removal");
        assert!(self.device.upgrade().is_none(), "kept alive");
    }
}

fn with(shared: &Arc<Shared>, work: impl FnOnce(&Shared) + 'static) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || work(&shared))
}

/// Two use it, one removes it.
pub fn two_users_and_removal() {
    let shared = shared(|| ());
    let users: Vec<_> = (0..2)
        .map(|_| {
            with(&shared, |shared| {
                let first = shared.read();
                let second = shared.read();
                assert!(first || !second, "a device that came back");
            })
        })
        .collect();
    shared.close();
    for user in users {
        user.join().unwrap();
    }
}

/// Two remove it at once: both have waited when they return.
pub fn two_removals() {
    let shared = shared(|| ());
    let user = with(&shared, |shared| {
        shared.read();
    });
    let other = with(&shared, Shared::close);
    shared.close();
    other.join().unwrap();
    user.join().unwrap();
}

/// An operation that removes its own device is refused, and the device stays for who removes it from outside.
pub fn removal_from_within() {
    let slot: Arc<OnceLock<Weak<Shared>>> = Arc::default();
    let within = Arc::clone(&slot);
    let shared = shared(move || {
        if let Some(shared) = within.get().and_then(Weak::upgrade) {
            assert_eq!(shared.gate.close().unwrap_err().kind(), Kind::Busy);
        }
    });
    slot.set(Arc::downgrade(&shared)).unwrap();
    let user = with(&shared, |shared| {
        shared.read();
    });
    shared.close();
    user.join().unwrap();
}
