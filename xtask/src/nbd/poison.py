# SPDX-License-Identifier: MIT OR Apache-2.0
"""libnbd's Python on a device with one error entry: poison.py URI NAME OFFSET LENGTH, where the lost sector lies."""

import sys

import nbd

URI, NAME, AT, LENGTH = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
CONTEXT = "nvstack:badblocks"


def bad(h):
    """The ranges that the context tells to be bad, as (offset, length)."""
    found, at, size = [], 0, h.get_size()
    while at < size:
        part = []
        h.block_status(size - at, at, lambda context, start, entries, error: part.extend(entries))
        for length, flags in zip(part[0::2], part[1::2]):
            if flags:
                found.append((at, length))
            at += length
    return found


def main():
    h = nbd.NBD()
    h.add_meta_context(CONTEXT)
    h.connect_uri(URI)
    assert bad(h) == [(AT, LENGTH)], bad(h)
    for offset, count in [(AT, LENGTH), (AT - LENGTH, 3 * LENGTH)]:
        try:
            h.pread(count, offset)
            raise AssertionError(f"{count} bytes at {offset} were read")
        except nbd.Error as error:
            assert error.errno == "EIO", error
    around = h.pread(LENGTH, AT - LENGTH) + h.pread(LENGTH, AT + LENGTH)
    h.pwrite(b"h" * LENGTH, AT)
    assert h.pread(3 * LENGTH, AT - LENGTH) == around[:LENGTH] + b"h" * LENGTH + around[LENGTH:]
    assert bad(h) == [], bad(h)
    h.flush()
    h.shutdown()


try:
    main()
    print(f"@CASE {NAME} ok EIO for the lost sector alone, which nvstack:badblocks names; a write heals it")
except Exception as error:  # pylint: disable=broad-except
    print(f"@CASE {NAME} FAIL {type(error).__name__}: {' '.join(str(error).split())}")
