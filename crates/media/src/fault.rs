// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bus error under a mapping becomes an error of the one call that met it.
//!
//! Access to a mapped file raises SIGBUS where the file has no page to give: it shrank, the file system is full or
//! failed, the memory is damaged. The handler looks whether the faulting instruction belongs to the routines of
//! `arch`, as a kernel looks into its exception table, and if so lets that routine return the faulting address. It
//! touches nothing but the saved registers, so it is safe wherever it strikes. Every other SIGBUS goes to whoever had
//! the signal before, or does what it always did: it kills.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::OnceLock;

use crate::{Error, Result, arch};

/// Who had the signal before. Set before the handler is installed, so the handler always finds it.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once in a process.
pub(crate) fn install() -> Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        let previous = exchange(None)?;
        let _ = PREVIOUS.set(previous);
        let mut ours = previous;
        ours.sa_sigaction = address_of_handler();
        // The signal may come in a thread that has almost no stack left: the alternate one serves if there is one.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        ours.sa_restorer = None;
        // SAFETY: `sa_mask` is a valid signal set that this function owns.
        unsafe { libc::sigemptyset(&raw mut ours.sa_mask) };
        exchange(Some(&ours)).map(drop)
    });
    done.map_err(|errno| Error::os("install the SIGBUS handler", std::io::Error::from_raw_os_error(errno)))
}

/// Sets the action of SIGBUS if one is given, and tells the one before.
fn exchange(action: Option<&libc::sigaction>) -> Result<libc::sigaction, i32> {
    let action = action.map_or(ptr::null(), ptr::from_ref);
    let mut before = mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `action` is null or a valid action, and `before` has room for one.
    let status = unsafe { libc::sigaction(libc::SIGBUS, action, before.as_mut_ptr()) };
    if status != 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
    }
    // SAFETY: all bytes were zeroed, which is a valid action, and the call may have filled them.
    Ok(unsafe { before.assume_init() })
}

#[allow(clippy::as_conversions, reason = "the system takes handlers as integers")]
fn address_of_handler() -> usize {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
    handler as *const () as usize
}

/// Async-signal-safe: reads statics and the three arguments, changes saved registers; calls `sigaction` and `raise`
/// only on the way out of the process.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the handler is installed with SA_SIGINFO, so the kernel passes a valid siginfo, which nothing changes
    // while the handler runs.
    let told = unsafe { &*info };
    let code = told.si_code;
    // Raised by an instruction of this thread, not sent by a process (zero and below) nor told ahead of any use
    // (BUS_MCEERR_AO): only then do the saved registers have anything to do with it.
    let by_instruction =
        matches!(code, libc::BUS_ADRALN | libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR);
    // An alignment check is the program's own wish, tells no address, and is none of ours.
    if by_instruction && code != libc::BUS_ADRALN {
        // SAFETY: a SIGBUS of these codes carries an address.
        let address = unsafe { told.si_addr() };
        if leave_routine(address.addr(), context) {
            return;
        }
    }
    pass_on(signal, info, context, by_instruction);
}

/// If one of our routines faulted, makes it return `address`.
#[allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "registers are bits, and indexed by C ints"
)]
#[allow(clippy::cast_sign_loss, clippy::cast_possible_wrap)]
fn leave_routine(address: usize, context: *mut c_void) -> bool {
    const RIP: usize = libc::REG_RIP as usize;
    const RAX: usize = libc::REG_RAX as usize;
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a valid context, which nothing else refers to while the handler runs.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let Some(pad) = arch::landing_pad(registers[RIP] as usize) else { return false };
    registers[RIP] = pad as i64;
    // Never 0, which would mean that all went well.
    registers[RAX] = address.max(1) as i64;
    true
}

/// Does what would have happened without us.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, by_instruction: bool) {
    let (handler, flags) = PREVIOUS.get().map_or((libc::SIG_DFL, 0), |p| (p.sa_sigaction, p.sa_flags));
    match handler {
        // The kernel ignores what was sent, and kills at a faulting instruction even so.
        libc::SIG_IGN if !by_instruction => {}
        libc::SIG_IGN | libc::SIG_DFL => {
            // Zeroes are the default action. On return the instruction faults again, and the core dump shows it; a
            // signal that was sent does not come again by itself.
            // SAFETY: all-zero bytes are a valid `sigaction`.
            let default = unsafe { mem::zeroed::<libc::sigaction>() };
            let _ = exchange(Some(&default));
            if !by_instruction {
                // SAFETY: raising a signal is sound; it stays pending until this handler returns.
                unsafe { libc::raise(signal) };
            }
        }
        _ if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the previous owner installed this address with SA_SIGINFO, so it is a function of three
            // arguments.
            let handler = unsafe {
                mem::transmute::<usize, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(handler)
            };
            handler(signal, info, context);
        }
        _ => {
            // SAFETY: the previous owner installed this address without SA_SIGINFO: a function of one argument.
            let handler = unsafe { mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
}
