// SPDX-License-Identifier: MIT OR Apache-2.0
//! The removal of an NBD export while clients come to it.

use std::sync::Arc;

use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::device::Device;
use crate::exports::Exports;
use crate::stream::Stream;

fn device() -> Arc<Device> {
    Arc::new(Device { removed: Arc::new(AtomicUsize::new(0)), within: Box::new(|| ()) })
}

fn exports() -> Arc<Exports> {
    let exports = Exports::new();
    exports.add("a", "", device()).unwrap();
    Arc::new(exports)
}

/// A client comes while the export is removed: it is told to end, or there is no export for it.
pub fn client_and_removal() {
    let exports = exports();
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let exports = Arc::clone(&exports);
            thread::spawn(move || {
                let stream = Arc::new(Stream::default());
                let export = exports.find("a");
                if let Some(export) = &export {
                    export.join(&stream);
                }
                (export, stream)
            })
        })
        .collect();
    assert!(exports.remove("a").is_some());
    for client in clients {
        let (export, stream) = client.join().unwrap();
        if let Some(export) = export {
            assert!(stream.has_stopped(), "a client that nobody told");
            assert!(export.is_gone(), "an export that serves on");
        }
    }
    assert!(exports.find("a").is_none());
}

/// Two remove it, one adds it anew: each life of it is taken by one.
pub fn removals_and_addition() {
    let exports = exports();
    let removers: Vec<_> = (0..2)
        .map(|_| {
            let exports = Arc::clone(&exports);
            thread::spawn(move || usize::from(exports.remove("a").is_some()))
        })
        .collect();
    let added = usize::from(exports.add("a", "", device()).is_ok());
    let removed: usize = removers.into_iter().map(|remover| remover.join().unwrap()).sum();
    assert_eq!(1 + added, removed + exports.names().len(), "devices put in and taken out");
}
