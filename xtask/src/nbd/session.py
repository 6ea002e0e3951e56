# SPDX-License-Identifier: MIT OR Apache-2.0
"""libnbd's Python as the client: session.py URI NAME WRITTEN, on a device of which only the first WRITTEN bytes were ever
written. Prints a verdict for each case."""

import os
import socket
import sys

import nbd

URI, NAME, WRITTEN = sys.argv[1], sys.argv[2], int(sys.argv[3])
MIB = 1 << 20


def connect(*contexts, structured=True):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    for context in contexts:
        h.add_meta_context(context)
    h.connect_uri(URI)
    return h


def refused(call, *errors):
    """The call fails with one of these errors; gives which."""
    try:
        call()
    except nbd.Error as error:
        assert error.errno in errors, f"{error.errno}: {error.string}, expected {errors}"
        return error.errno
    raise AssertionError(f"went well, expected {errors}")


def extents(h, count, offset, flags=0):
    """Block status: {context: [(length, flags), ...]}."""
    found = {}

    def each(context, start, entries, error):
        assert start == offset and error.value == 0
        found.setdefault(context, []).extend(zip(entries[0::2], entries[1::2]))

    h.block_status(count, offset, each, flags)
    return found


def walk(h, context, count, offset):
    """Block status of a whole range, asked for again and again; one list of (offset, length, flags), neighbours merged."""
    merged, at = [], offset
    while at < offset + count:
        part = extents(h, offset + count - at, at)[context]
        assert part and all(length > 0 for length, _ in part), part
        for length, flags in part:
            length = min(length, offset + count - at)
            if merged and merged[-1][2] == flags:
                merged[-1] = (merged[-1][0], merged[-1][1] + length, flags)
            elif length:
                merged.append((at, length, flags))
            at += length
    return merged


def chunks(h, count, offset, flags=0):
    """A structured read: the data, and the chunks as (offset, length, status)."""
    seen = []

    def each(buffer, start, status, error):
        assert error.value == 0
        seen.append((start, len(buffer), status))

    return h.pread_structured(count, offset, each, flags), seen


def negotiation():
    h = connect(nbd.CONTEXT_BASE_ALLOCATION, "nvstack:badblocks", "no:such")
    assert h.get_structured_replies_negotiated()
    assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION) and h.can_meta_context("nvstack:badblocks")
    assert not h.can_meta_context("no:such")
    can = dict(flush=h.can_flush(), fua=h.can_fua(), trim=h.can_trim(), zero=h.can_zero(), df=h.can_df(), cache=h.can_cache(),
               multi_conn=h.can_multi_conn())
    assert all(can.values()), can
    assert not h.is_read_only() and not h.is_rotational()
    least, best = h.get_block_size(nbd.SIZE_MINIMUM), h.get_block_size(nbd.SIZE_PREFERRED)
    most = h.get_block_size(nbd.SIZE_MAXIMUM)
    assert least & (least - 1) == 0 and best & (best - 1) == 0 and least <= best <= most, (least, best, most)
    assert h.get_protocol() == "newstyle-fixed"
    h.shutdown()
    return f"structured replies, both contexts, all of {', '.join(can)}; blocks of {least}, best {best}, most {most}"


def options():
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(URI)
    export, listed = h.get_export_name(), []
    h.opt_list(lambda name, description: listed.append(name))
    assert export in listed, listed
    h.opt_info()
    size = h.get_size()
    h.set_export_name("no such export")
    errno = refused(h.opt_info, "ENOENT")
    refused(h.opt_go, "ENOENT")
    h.set_export_name(export)
    h.opt_go()
    assert h.get_size() == size and len(h.pread(4096, 0)) == 4096
    h.shutdown()
    other = nbd.NBD()
    other.set_opt_mode(True)
    other.connect_uri(URI)
    other.opt_abort()
    return f"LIST, INFO, ABORT and GO; an unknown export is {errno} and the connection goes on"


def oldest():
    h = connect(structured=False)
    assert not h.get_structured_replies_negotiated()
    data = os.urandom(256 << 10)
    h.pwrite(data, WRITTEN)
    assert h.pread(len(data), WRITTEN) == data
    h.shutdown()
    return "simple replies carry the same bytes"


def allocation():
    h = connect(nbd.CONTEXT_BASE_ALLOCATION)
    size, far = h.get_size(), WRITTEN + 4 * MIB
    unit = h.get_block_size(nbd.SIZE_MINIMUM)
    before = walk(h, nbd.CONTEXT_BASE_ALLOCATION, size, 0)
    assert sum(length for _, length, _ in before) == size
    assert before[0][2] == 0 and before[0][1] >= WRITTEN, before[:2]
    # The last sector may share a page of the file with the spare blocks behind it, which the first writes went to.
    rest = before[-1] if before[-1][2] & nbd.STATE_HOLE else before[-2]
    assert rest[2] & nbd.STATE_HOLE and size - rest[0] - rest[1] < 2 * 4096, before[-2:]
    h.pwrite(b"x" * 8 * unit, far)
    after = {at: (length, flags) for at, length, flags in walk(h, nbd.CONTEXT_BASE_ALLOCATION, 64 * unit, far - 32 * unit)}
    assert after.get(far) == (8 * unit, 0), after
    assert after[far - 32 * unit][1] & nbd.STATE_HOLE and after[far + 8 * unit][1] & nbd.STATE_HOLE, after
    for at, length, flags in before:
        if flags & nbd.STATE_ZERO:
            part = min(length, MIB)
            assert h.pread(part, at) == bytes(part), f"{at} is told to be zeros"
    one = extents(h, MIB, far, nbd.CMD_FLAG_REQ_ONE)[nbd.CONTEXT_BASE_ALLOCATION]
    assert len(one) == 1 and one[0][0] <= MIB, one
    h.shutdown()
    return f"base:allocation follows the map: {len(before)} extents cover {size} bytes, eight new sectors show as data"


def structured():
    h = connect(nbd.CONTEXT_BASE_ALLOCATION)
    at, block = WRITTEN + 8 * MIB, 64 << 10
    data = os.urandom(block)
    h.pwrite(data, at + block)
    found, seen = chunks(h, 3 * block, at)
    assert found == bytes(block) + data + bytes(block)
    assert sum(length for _, length, _ in seen) == 3 * block, seen
    found, whole = chunks(h, 3 * block, at, nbd.CMD_FLAG_DF)
    assert found == bytes(block) + data + bytes(block)
    assert whole == [(at, 3 * block, nbd.READ_DATA)], whole
    holes = sum(status == nbd.READ_HOLE for _, _, status in seen)
    h.shutdown()
    return f"data between unwritten sectors came in {len(seen)} chunks, {holes} of them holes; with DF in one"


def alignment():
    h = connect()
    h.set_strict_mode(0)
    unit, size = h.get_block_size(nbd.SIZE_MINIMUM), h.get_size()
    before = h.pread(2 * unit, 0)
    calls = 0
    for count, offset in [(unit, 1), (1, 0), (unit - 1, unit), (unit + 1, 0)]:
        for call in (lambda: h.pread(count, offset), lambda: h.pwrite(b"y" * count, offset), lambda: h.zero(count, offset),
                     lambda: h.trim(count, offset)):
            refused(call, "EINVAL")
            calls += 1
    for count, offset in [(unit, size), (2 * unit, size - unit), (unit, (1 << 63) - unit)]:
        refused(lambda: h.pread(count, offset), "EINVAL")
        refused(lambda: h.pwrite(b"y" * count, offset), "EINVAL", "ENOSPC")
        refused(lambda: h.zero(count, offset), "EINVAL", "ENOSPC")
        calls += 3
    assert h.pread(2 * unit, 0) == before
    h.shutdown()
    return f"{calls} unaligned or too far requests: EINVAL (or ENOSPC), nothing written, the connection goes on"


def zeroes():
    h = connect(nbd.CONTEXT_BASE_ALLOCATION)
    at, block = WRITTEN + 16 * MIB, 64 << 10
    data = os.urandom(4 * block)
    h.pwrite(data, at)
    h.zero(block, at + block)
    h.zero(block, at + 2 * block, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
    assert h.pread(4 * block, at) == data[:block] + bytes(2 * block) + data[3 * block:]
    h.shutdown()
    return "WRITE_ZEROES, with and without NO_HOLE and FUA: zeros there and nowhere else"


def trim():
    h = connect()
    at, block = WRITTEN + 17 * MIB, 64 << 10
    data = os.urandom(3 * block)
    h.pwrite(data, at)
    h.trim(block, at + block)
    h.trim(block, at + block, nbd.CMD_FLAG_FUA)
    assert h.pread(3 * block, at) == data
    h.shutdown()
    return "TRIM succeeds and leaves the medium alone, as Linux would have to read it"


def caches():
    first, second = connect(), connect()
    at = WRITTEN + 18 * MIB
    for n in range(32):
        data = os.urandom(8192)
        first.pwrite(data, at + n * 8192, nbd.CMD_FLAG_FUA if n % 2 else 0)
        assert second.pread(8192, at + n * 8192) == data
    second.flush()
    first.cache(64 << 10, at)
    first.shutdown()
    second.shutdown()
    return "what one connection wrote (FUA or not) the other reads at once; it may flush for both; CACHE succeeds"


def pipeline():
    h = connect()
    at, block, count = WRITTEN + 20 * MIB, 16 << 10, 192
    data = os.urandom(block * count)
    cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data[n * block:(n + 1) * block])), at + n * block)
               for n in range(count)]

    def finish():
        while cookies:
            h.poll(-1)
            cookies[:] = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]

    finish()
    buffers = [nbd.Buffer(block) for _ in range(count)]
    cookies = [h.aio_pread(buffers[n], at + n * block) for n in range(count)]
    finish()
    assert b"".join(bytes(buffer.to_bytearray()) for buffer in buffers) == data
    h.shutdown()
    return f"{count} writes and then {count} reads in flight at once"


def large():
    h = connect()
    most = h.get_block_size(nbd.SIZE_MAXIMUM)
    count = min(most, h.get_size(), 32 * MIB) // 4096 * 4096
    first = h.pread(MIB, 0)
    assert h.pread(count, 0)[:MIB] == first
    h.shutdown()
    return f"one read of {count} bytes"


def vanishing():
    keep = connect()
    at, block = WRITTEN + 24 * MIB, 1 << 20
    for _ in range(8):
        gone = connect()
        for n in range(16):
            gone.aio_pread(nbd.Buffer(block), at)
            gone.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(block)), at)
        gone.poll(0)
        socket.socket(fileno=os.dup(gone.aio_get_fd())).shutdown(socket.SHUT_RDWR)
        assert len(keep.pread(4096, 0)) == 4096
    keep.shutdown()
    return "eight clients that vanish with 32 MiB in flight do not disturb another"


CASES = [negotiation, options, oldest, allocation, structured, alignment, zeroes, trim, caches, pipeline, large, vanishing]

if __name__ == "__main__":
    for case in CASES:
        try:
            print(f"@CASE {NAME}.{case.__name__} ok {case()}", flush=True)
        except Exception as error:  # pylint: disable=broad-except
            words = f"{type(error).__name__} in line {error.__traceback__.tb_next.tb_lineno if error.__traceback__.tb_next else 0}: {error}"
            print(f"@CASE {NAME}.{case.__name__} FAIL {' '.join(words.split())}", flush=True)
