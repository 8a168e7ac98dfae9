"""Python functions as machine code (numba), for loops over bytes that numpy and Arrow have no words for.

A function is compiled when it is called first, which takes seconds, and the code is kept beside the source,
or in the user's cache directory where that can't be written (`NUMBA_CACHE_DIR` names another). numba looks
only at a function's own file to see whether its code is up to date: none calls a compiled one of another, and
what operators/raw_bytes.py says of itself holds.

Nobody checks an index in compiled code. What reads past an end is found by
`NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=/tmp/checked make test ARGS=tests/operators`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """The function, compiled; it takes numpy arrays and integers."""
    try:
        return cast("_Function", njit(cache=True, nogil=True)(function))
    except RuntimeError:  # nothing can be written anywhere: compiled anew at every start
        return cast("_Function", njit(nogil=True)(function))
