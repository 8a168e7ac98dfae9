"""Texts at the end of what a process may read: compiled code that reads on ends it."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from operators.texts import Texts


@contextmanager
def at_the_edge(texts: Sequence[bytes]) -> Iterator[Texts]:
    """The texts, one behind the other, up to a page that can't be read."""
    laid, page = Texts.of(texts), mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, 2 * page), np.uint8)
    memory[page - len(laid.data) : page] = laid.data
    data = memory[:page]
    data.flags.writeable = False
    libc = ctypes.CDLL(None, use_errno=True)
    behind = ctypes.c_void_p(memory.ctypes.data + page)
    assert libc.mprotect(behind, page, 0) == 0, ctypes.get_errno()
    try:
        yield Texts(data, laid.start + page - len(laid.data), laid.end + page - len(laid.data))
    finally:
        assert libc.mprotect(behind, page, mmap.PROT_READ | mmap.PROT_WRITE) == 0
