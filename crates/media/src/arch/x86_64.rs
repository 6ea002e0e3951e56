// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every instruction that touches media, in assembly.
//!
//! Two reasons. The compiler cannot know these bytes, so no rule of the language about references and races is ever at
//! stake. And the address range of the routines is known, so the SIGBUS handler can tell "our copy hit a hole in the
//! world" from every other bus error and let that one call return an error.
//!
//! What makes the latter simple: no routine moves the stack pointer or calls anything, so wherever it stands, `ret`
//! returns to its caller. The handler puts the faulting address into RAX and jumps to a landing pad, which returns. A
//! routine that ends by itself returns 0 in RAX.

use core::arch::global_asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _mm_sfence};
use std::sync::OnceLock;

/// Copies `len` bytes through the cache. Either side may be media.
type Copy = unsafe extern "C" fn(to: *mut u8, from: *const u8, len: usize) -> usize;
/// Starts writing back the cache lines from `first`, which is the start of a line, up to `end`.
type Flush = unsafe extern "C" fn(first: *const u8, end: *const u8) -> usize;

/// What a load gives: RAX and RDX.
#[repr(C)]
pub(crate) struct Loaded {
    /// 0, or the address that could not be read.
    pub(crate) fault: usize,
    /// The value; nothing sensible after a fault.
    pub(crate) value: u64,
}

/// The best routines that this CPU has. All return 0, or the address that could not be touched.
pub(crate) struct Routines {
    /// Copies through the cache.
    pub(crate) copy: Copy,
    /// Copies whole lines past the cache: `to` is the start of a line, `len` a multiple of a line.
    pub(crate) stream: Copy,
    /// Writes lines back.
    pub(crate) flush: Flush,
    /// Zeroes bytes through the cache.
    pub(crate) zero: unsafe extern "C" fn(to: *mut u8, len: usize) -> usize,
    /// Zeroes whole lines past the cache, as `stream`.
    pub(crate) stream_zero: unsafe extern "C" fn(to: *mut u8, len: usize) -> usize,
    /// Reads 4 bytes in one piece.
    pub(crate) load_u32: unsafe extern "C" fn(from: *const u8) -> Loaded,
    /// Reads 8 bytes in one piece.
    pub(crate) load_u64: unsafe extern "C" fn(from: *const u8) -> Loaded,
    /// Writes 4 bytes in one piece.
    pub(crate) store_u32: unsafe extern "C" fn(to: *mut u8, value: u32) -> usize,
    /// Writes 8 bytes in one piece.
    pub(crate) store_u64: unsafe extern "C" fn(to: *mut u8, value: u64) -> usize,
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Orders streamed stores and line write-backs before what follows.
pub(crate) fn store_fence() {
    // SAFETY: the instruction needs SSE, which every x86_64 has.
    unsafe { _mm_sfence() };
}

/// Where a routine that faulted at `rip` goes on; `None` if that is no routine of ours.
pub(crate) fn landing_pad(rip: usize) -> Option<usize> {
    let begin = (&raw const nvstack_media_begin).addr();
    let wide = (&raw const nvstack_media_wide).addr();
    let end = (&raw const nvstack_media_end).addr();
    if rip < begin || rip >= end {
        None
    } else if rip < wide {
        Some((&raw const nvstack_media_pad).addr())
    } else {
        Some((&raw const nvstack_media_wide_pad).addr())
    }
}

/// Chooses the routines, once.
pub(crate) fn routines() -> &'static Routines {
    static CHOSEN: OnceLock<Routines> = OnceLock::new();
    CHOSEN.get_or_init(|| best(&Cpu::found()))
}

/// What was found in CPUID, as far as it matters here.
struct Cpu {
    avx: bool,
    avx512f: bool,
    /// 512-bit registers that may be used all the time: the first CPUs that had any slow their clock down for them.
    /// VBMI2 came with those that do not.
    calm512: bool,
    clwb: bool,
    clflushopt: bool,
}

impl Cpu {
    fn found() -> Cpu {
        // Leaf 7: EBX bit 23 is CLFLUSHOPT, bit 24 is CLWB.
        let extended = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
        Cpu {
            avx: is_x86_feature_detected!("avx"),
            avx512f: is_x86_feature_detected!("avx512f"),
            calm512: is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vbmi2"),
            clwb: extended & (1 << 24) != 0,
            clflushopt: extended & (1 << 23) != 0,
        }
    }
}

fn best(cpu: &Cpu) -> Routines {
    Routines {
        copy: if cpu.calm512 {
            nvstack_media_copy_avx512
        } else if cpu.avx {
            nvstack_media_copy_avx
        } else {
            nvstack_media_copy_sse2
        },
        stream: if cpu.avx512f {
            nvstack_media_stream_avx512
        } else if cpu.avx {
            nvstack_media_stream_avx
        } else {
            nvstack_media_stream_sse2
        },
        flush: if cpu.clwb {
            nvstack_media_clwb
        } else if cpu.clflushopt {
            nvstack_media_clflushopt
        } else {
            nvstack_media_clflush
        },
        zero: nvstack_media_zero,
        stream_zero: nvstack_media_stream_zero,
        load_u32: nvstack_media_load_u32,
        load_u64: nvstack_media_load_u64,
        store_u32: nvstack_media_store_u32,
        store_u64: nvstack_media_store_u64,
    }
}

/// Every choice of routines that this CPU can run, from the least on, with its name.
#[cfg(test)]
pub(crate) fn variants() -> Vec<(&'static str, &'static Routines)> {
    let least = || Cpu { avx: false, avx512f: false, calm512: false, clwb: false, clflushopt: false };
    let here = Cpu::found();
    [
        ("sse2, clflush", true, least()),
        ("avx, clflushopt", here.avx && here.clflushopt, Cpu { avx: true, clflushopt: true, ..least() }),
        ("early avx512", here.avx512f, Cpu { avx: true, avx512f: true, ..least() }),
        ("this one", true, here),
    ]
    .into_iter()
    .filter(|(_, runs_here, _)| *runs_here)
    .map(|(name, _, cpu)| (name, &*Box::leak(Box::new(best(&cpu)))))
    .collect()
}

unsafe extern "C" {
    static nvstack_media_begin: u8;
    static nvstack_media_wide: u8;
    static nvstack_media_end: u8;
    static nvstack_media_pad: u8;
    static nvstack_media_wide_pad: u8;

    fn nvstack_media_copy_sse2(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn nvstack_media_copy_avx(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn nvstack_media_copy_avx512(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn nvstack_media_stream_sse2(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn nvstack_media_stream_avx(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn nvstack_media_stream_avx512(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn nvstack_media_zero(to: *mut u8, len: usize) -> usize;
    fn nvstack_media_stream_zero(to: *mut u8, len: usize) -> usize;
    fn nvstack_media_clwb(first: *const u8, end: *const u8) -> usize;
    fn nvstack_media_clflushopt(first: *const u8, end: *const u8) -> usize;
    fn nvstack_media_clflush(first: *const u8, end: *const u8) -> usize;
    fn nvstack_media_load_u32(from: *const u8) -> Loaded;
    fn nvstack_media_load_u64(from: *const u8) -> Loaded;
    fn nvstack_media_store_u32(to: *mut u8, value: u32) -> usize;
    fn nvstack_media_store_u64(to: *mut u8, value: u64) -> usize;
}

macro_rules! symbol {
    ($name:literal) => {
        concat!(".hidden ", $name, "\n.globl ", $name, "\n", $name, ":\n")
    };
}

macro_rules! routine {
    ($name:literal: $($line:literal)*) => {
        concat!(
            ".balign 32\n.type ", $name, ", @function\n", symbol!($name), ".cfi_startproc\n",
            $($line, "\n",)*
            ".cfi_endproc\n.size ", $name, ", . - ", $name, "\n",
        )
    };
}

macro_rules! flush_loop {
    ($name:literal, $instruction:literal) => {
        concat!(
            ".balign 32\n.type ",
            $name,
            ", @function\n",
            symbol!($name),
            ".cfi_startproc\n",
            "cmp rdi, rsi\njae 3f\n",
            "2:\n",
            $instruction,
            " [rdi]\nadd rdi, 64\ncmp rdi, rsi\njb 2b\n",
            "3:\nxor eax, eax\nret\n",
            ".cfi_endproc\n.size ",
            $name,
            ", . - ",
            $name,
            "\n",
        )
    };
}

global_asm!(
    ".pushsection .text.nvstack_media, \"ax\", @progbits\n",
    ".balign 64\n",
    symbol!("nvstack_media_begin"),
    // rdi: to, rsi: from, rdx: bytes
    routine!("nvstack_media_copy_sse2":
        "cmp rdx, 64"
        "jb 3f"
        "2:"
        "movdqu xmm0, [rsi]"
        "movdqu xmm1, [rsi + 16]"
        "movdqu xmm2, [rsi + 32]"
        "movdqu xmm3, [rsi + 48]"
        "movdqu [rdi], xmm0"
        "movdqu [rdi + 16], xmm1"
        "movdqu [rdi + 32], xmm2"
        "movdqu [rdi + 48], xmm3"
        "add rsi, 64"
        "add rdi, 64"
        "sub rdx, 64"
        "cmp rdx, 64"
        "jae 2b"
        "3:"
        "cmp rdx, 16"
        "jb 5f"
        "4:"
        "movdqu xmm0, [rsi]"
        "movdqu [rdi], xmm0"
        "add rsi, 16"
        "add rdi, 16"
        "sub rdx, 16"
        "cmp rdx, 16"
        "jae 4b"
        "5:"
        "test dl, 8"
        "jz 6f"
        "mov rcx, [rsi]"
        "mov [rdi], rcx"
        "add rsi, 8"
        "add rdi, 8"
        "6:"
        "test dl, 4"
        "jz 7f"
        "mov ecx, [rsi]"
        "mov [rdi], ecx"
        "add rsi, 4"
        "add rdi, 4"
        "7:"
        "test dl, 2"
        "jz 8f"
        "movzx ecx, word ptr [rsi]"
        "mov [rdi], cx"
        "add rsi, 2"
        "add rdi, 2"
        "8:"
        "test dl, 1"
        "jz 9f"
        "movzx ecx, byte ptr [rsi]"
        "mov [rdi], cl"
        "9:"
        "xor eax, eax"
        "ret"
    ),
    routine!("nvstack_media_stream_sse2":
        "test rdx, rdx"
        "jz 3f"
        "2:"
        "movdqu xmm0, [rsi]"
        "movdqu xmm1, [rsi + 16]"
        "movdqu xmm2, [rsi + 32]"
        "movdqu xmm3, [rsi + 48]"
        "movntdq [rdi], xmm0"
        "movntdq [rdi + 16], xmm1"
        "movntdq [rdi + 32], xmm2"
        "movntdq [rdi + 48], xmm3"
        "add rsi, 64"
        "add rdi, 64"
        "sub rdx, 64"
        "jnz 2b"
        "3:"
        "xor eax, eax"
        "ret"
    ),
    // rdi: to, rsi: bytes
    routine!("nvstack_media_zero":
        "mov rcx, rsi"
        "xor eax, eax"
        "rep stosb"
        "ret"
    ),
    routine!("nvstack_media_stream_zero":
        "pxor xmm0, xmm0"
        "test rsi, rsi"
        "jz 3f"
        "2:"
        "movntdq [rdi], xmm0"
        "movntdq [rdi + 16], xmm0"
        "movntdq [rdi + 32], xmm0"
        "movntdq [rdi + 48], xmm0"
        "add rdi, 64"
        "sub rsi, 64"
        "jnz 2b"
        "3:"
        "xor eax, eax"
        "ret"
    ),
    // rdi: first line, rsi: end. These fault as a read does.
    flush_loop!("nvstack_media_clwb", "clwb"),
    flush_loop!("nvstack_media_clflushopt", "clflushopt"),
    flush_loop!("nvstack_media_clflush", "clflush"),
    // rdi: from. Aligned loads and stores of this CPU are single, acquire and release by nature.
    routine!("nvstack_media_load_u32":
        "mov edx, [rdi]"
        "xor eax, eax"
        "ret"
    ),
    routine!("nvstack_media_load_u64":
        "mov rdx, [rdi]"
        "xor eax, eax"
        "ret"
    ),
    // rdi: to, rsi: value
    routine!("nvstack_media_store_u32":
        "mov [rdi], esi"
        "xor eax, eax"
        "ret"
    ),
    routine!("nvstack_media_store_u64":
        "mov [rdi], rsi"
        "xor eax, eax"
        "ret"
    ),
    // From here on a fault may find the upper halves of vector registers in use. Short copies
    // go to the narrow routine.
    symbol!("nvstack_media_wide"),
    // A vector at the start, then four at a time on vector boundaries of `to`, so that no store crosses a line, then four
    // at the end. What the three have in common is copied twice.
    routine!("nvstack_media_copy_avx":
        "cmp rdx, 128"
        "jb 3f"
        "vmovdqu ymm0, [rsi]"
        "vmovdqu [rdi], ymm0"
        "lea r8, [rsi + rdx - 128]"
        "lea rdx, [rdi + rdx - 128]"
        "mov rcx, rdi"
        "and ecx, 31"
        "sub rcx, 32"
        "sub rsi, rcx"
        "sub rdi, rcx"
        "cmp rdi, rdx"
        "jae 4f"
        "2:"
        "vmovdqu ymm0, [rsi]"
        "vmovdqu ymm1, [rsi + 32]"
        "vmovdqu ymm2, [rsi + 64]"
        "vmovdqu ymm3, [rsi + 96]"
        "vmovdqu [rdi], ymm0"
        "vmovdqu [rdi + 32], ymm1"
        "vmovdqu [rdi + 64], ymm2"
        "vmovdqu [rdi + 96], ymm3"
        "add rsi, 128"
        "add rdi, 128"
        "cmp rdi, rdx"
        "jb 2b"
        "4:"
        "vmovdqu ymm0, [r8]"
        "vmovdqu ymm1, [r8 + 32]"
        "vmovdqu ymm2, [r8 + 64]"
        "vmovdqu ymm3, [r8 + 96]"
        "vmovdqu [rdx], ymm0"
        "vmovdqu [rdx + 32], ymm1"
        "vmovdqu [rdx + 64], ymm2"
        "vmovdqu [rdx + 96], ymm3"
        "vzeroupper"
        "xor eax, eax"
        "ret"
        "3:"
        "jmp nvstack_media_copy_sse2"
    ),
    routine!("nvstack_media_copy_avx512":
        "cmp rdx, 256"
        "jb 3f"
        "vmovdqu64 zmm0, [rsi]"
        "vmovdqu64 [rdi], zmm0"
        "lea r8, [rsi + rdx - 256]"
        "lea rdx, [rdi + rdx - 256]"
        "mov rcx, rdi"
        "and ecx, 63"
        "sub rcx, 64"
        "sub rsi, rcx"
        "sub rdi, rcx"
        "cmp rdi, rdx"
        "jae 4f"
        "2:"
        "vmovdqu64 zmm0, [rsi]"
        "vmovdqu64 zmm1, [rsi + 64]"
        "vmovdqu64 zmm2, [rsi + 128]"
        "vmovdqu64 zmm3, [rsi + 192]"
        "vmovdqu64 [rdi], zmm0"
        "vmovdqu64 [rdi + 64], zmm1"
        "vmovdqu64 [rdi + 128], zmm2"
        "vmovdqu64 [rdi + 192], zmm3"
        "add rsi, 256"
        "add rdi, 256"
        "cmp rdi, rdx"
        "jb 2b"
        "4:"
        "vmovdqu64 zmm0, [r8]"
        "vmovdqu64 zmm1, [r8 + 64]"
        "vmovdqu64 zmm2, [r8 + 128]"
        "vmovdqu64 zmm3, [r8 + 192]"
        "vmovdqu64 [rdx], zmm0"
        "vmovdqu64 [rdx + 64], zmm1"
        "vmovdqu64 [rdx + 128], zmm2"
        "vmovdqu64 [rdx + 192], zmm3"
        "vzeroupper"
        "xor eax, eax"
        "ret"
        "3:"
        "jmp nvstack_media_copy_sse2"
    ),
    routine!("nvstack_media_stream_avx":
        "test rdx, rdx"
        "jz 3f"
        "2:"
        "vmovdqu ymm0, [rsi]"
        "vmovdqu ymm1, [rsi + 32]"
        "vmovntdq [rdi], ymm0"
        "vmovntdq [rdi + 32], ymm1"
        "add rsi, 64"
        "add rdi, 64"
        "sub rdx, 64"
        "jnz 2b"
        "vzeroupper"
        "3:"
        "xor eax, eax"
        "ret"
    ),
    routine!("nvstack_media_stream_avx512":
        "test rdx, rdx"
        "jz 3f"
        "2:"
        "vmovdqu64 zmm0, [rsi]"
        "vmovntdq [rdi], zmm0"
        "add rsi, 64"
        "add rdi, 64"
        "sub rdx, 64"
        "jnz 2b"
        "vzeroupper"
        "3:"
        "xor eax, eax"
        "ret"
    ),
    symbol!("nvstack_media_end"),
    // The landing pads. RAX holds the faulting address already, the stack is as at the routine's entry.
    routine!("nvstack_media_pad":
        "ret"
    ),
    routine!("nvstack_media_wide_pad":
        "vzeroupper"
        "ret"
    ),
    ".popsection\n",
);
