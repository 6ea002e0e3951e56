// SPDX-License-Identifier: MIT OR Apache-2.0
//! Binding and unbinding: what every verb that changes state is made of.

use nvstack_media::{Error, Kind, Result};

use crate::model::{Namespace, Node, settle};

/// Where the tree shows its drivers.
const DRIVERS: &str = "bus/nd/drivers";

/// Bytes at the head of a namespace in which info blocks stand.
pub(crate) const HEAD: usize = 8192;

/// Offers a device to every driver until one takes it. Whether it then has one is for the caller to look up: drivers that
/// look into a namespace refuse it, and serve what they found there.
fn offer(node: &Node<'_>) -> Result<()> {
    let mut refusal = None;
    for driver in node.sys().list(DRIVERS)? {
        match node.sys().write(&format!("{DRIVERS}/{driver}/bind"), node.name()) {
            Ok(()) => return Ok(()),
            // A driver for other devices; what the one for these says is what people should read.
            Err(e) if matches!(e.kind(), Kind::Unrecognised | Kind::NotFound) => {}
            Err(e) => refusal = Some(e),
        }
    }
    refusal.map_or(Ok(()), Err)
}

/// Binds a device that has no driver.
pub(crate) fn bind(node: &Node<'_>) -> Result<()> {
    if node.bound() {
        return Ok(());
    }
    let offered = offer(node);
    settle(node.sys());
    if node.bound() { Ok(()) } else { Err(not_enabled(node.name(), offered.err())) }
}

fn not_enabled(name: &str, because: Option<Error>) -> Error {
    let error = Error::new(because.as_ref().map_or(Kind::Gone, Error::kind), format!("enable {name}"));
    match because {
        Some(e) => error.because(e),
        None => error.found("no driver that takes it"),
    }
}

/// Unbinds a device. The `driver` link gone is the only proof.
pub(crate) fn unbind(node: &Node<'_>) -> Result<()> {
    if !node.bound() {
        return Ok(());
    }
    let stored = node.sys().write(&node.path("driver/unbind"), node.name());
    settle(node.sys());
    match (node.bound(), stored) {
        (false, _) => Ok(()),
        (true, Err(e)) => Err(e),
        (true, Ok(())) => {
            Err(Error::new(Kind::Busy, format!("disable {}", node.name())).found("its driver still there"))
        }
    }
}

/// Enables a namespace, by itself or through what stands on it.
pub(crate) fn enable_namespace(n: &Namespace<'_>) -> Result<()> {
    if n.active() {
        return Ok(());
    }
    let offered = offer(&n.served_by());
    settle(n.sys());
    // The driver that finds a BTT, fsdax or devdax refuses the namespace and serves the claim.
    if n.active() { Ok(()) } else { Err(not_enabled(n.name(), offered.err())) }
}

/// Disables a namespace, and frees it of its claim. [`Kind::Busy`] while its block device is in use.
pub(crate) fn disable_namespace(n: &Namespace<'_>) -> Result<()> {
    if let Some(dev) = n.block_device() {
        n.sys().idle_dev(&dev).map_err(|e| {
            Error::new(e.kind(), format!("disable {}", n.name()))
                .accepted(format_args!("/dev/{dev} not open or mounted"))
                .because(e)
        })?;
    }
    unbind(&n.served_by())?;
    match n.holder() {
        Some(claim) => claim.store("namespace", "\n"),
        None => Ok(()),
    }
}

/// Works on the bytes of a namespace that nothing serves: they are made a raw block device for as long as `work` takes.
pub(crate) fn with_raw<T>(n: &Namespace<'_>, work: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    n.store("force_raw", "1\n")?;
    let result = bind(n).and_then(|()| match n.block_device() {
        Some(dev) => {
            n.sys().idle_dev(&dev)?;
            work(&dev)
        }
        None => Err(Error::new(Kind::Gone, format!("open {}", n.name())).found("no block device")),
    });
    let restored = n.store("force_raw", "0\n");
    let unbound = unbind(n);
    let result = result?;
    restored?;
    unbound?;
    Ok(result)
}

/// What became of the head of a namespace.
pub(crate) enum Wiped {
    /// It was wiped.
    Yes,
    /// There was nothing to wipe.
    Blank,
    /// No driver takes the namespace, so that nobody can look.
    Unreachable(Error),
}

/// Wipes the info blocks of a namespace that nothing serves.
pub(crate) fn wipe_head(n: &Namespace<'_>) -> Result<Wiped> {
    let mut reached = false;
    let wiped = with_raw(n, |dev| {
        reached = true;
        let mut head = vec![0; HEAD];
        n.sys().read_dev(dev, 0, &mut head)?;
        if head.iter().all(|byte| *byte == 0) {
            return Ok(Wiped::Blank);
        }
        head.fill(0);
        n.sys().write_dev(dev, 0, &head)?;
        Ok(Wiped::Yes)
    });
    match wiped {
        Err(e) if !reached && e.kind() != Kind::Busy => Ok(Wiped::Unreachable(e)),
        other => other,
    }
}
