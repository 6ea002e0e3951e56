// SPDX-License-Identifier: MIT OR Apache-2.0
//! The second after which a group is committed though nobody asked.

use std::sync::Arc;
use std::time::Duration;

use nvstack_media::{Error, Media, Result};

use crate::Btt;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, JoinHandle};

/// How long a written sector may wait for its commit.
const PATIENCE: Duration = Duration::from_secs(1);

/// A thread that commits what has waited for a second. Needed where the device has a volatile cache; elsewhere it
/// starts no thread. Dropping it stops the thread; it does not commit.
pub struct Ticker {
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    rouse: Box<dyn Fn() + Send + Sync>,
    thread: JoinHandle<()>,
}

impl Ticker {
    /// Starts the thread for a device.
    pub fn start<M: Media + 'static>(device: &Arc<Btt<M>>) -> Result<Ticker> {
        if device.group().is_none() {
            return Ok(Ticker { running: None });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (device, stopped) = (Arc::clone(device), Arc::clone(&stop));
        let sleeper = Arc::clone(&device);
        let rouse = Box::new(move || sleeper.group().into_iter().for_each(crate::group::Group::notify));
        let thread = thread::Builder::new()
            .name("btt-commit".into())
            .spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    let Some(group) = device.group() else { return };
                    if group.wait_dirty(PATIENCE, &stopped) {
                        // Time passes from the first sector of the group on.
                        thread::park_timeout(PATIENCE);
                        // A failure freezes the device, and every later request tells why.
                        let _ = device.commit();
                    }
                }
            })
            .map_err(|e| Error::os("start commit thread", e))?;
        Ok(Ticker { running: Some(Running { stop, rouse, thread }) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some(Running { stop, rouse, thread }) = self.running.take() {
            stop.store(true, Ordering::Release);
            rouse();
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
