"""Compiled functions where their code can be kept and where it can't."""

from __future__ import annotations

from typing import Any

from operators.compiled import compiled


def test_a_function_whose_code_can_be_kept_nowhere_is_compiled_all_the_same() -> None:
    found: dict[str, Any] = {}
    exec("def doubled(number):\n    return 2 * number", found)  # noqa: S102 - a function of no file
    doubled: Any = compiled(found["doubled"])
    assert doubled(21) == 42
    assert doubled.signatures
