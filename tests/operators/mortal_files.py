"""Files in memory for `operators.archive`, and a process that dies between any two of their changes."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import Buffer


class DeadError(Exception):
    """The process was killed; the files are as they were then."""


class MortalFiles:
    """An archive whose process dies before or after the `lives`-th change from now, if that is set."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.written: list[str] = []
        """All that ever were, in their order."""
        self.lives: int | None = None

    def put(self, name: str, data: bytes) -> None:
        self._live()
        self.files[name] = data
        self.written.append(name)
        self._live()

    def write_over(self, name: str, data: Buffer) -> None:
        data = bytes(data)
        before = self.files.get(name, b"")
        self._live()
        self.files[name] = data[: len(data) // 2] + before[len(data) // 2 :]
        self._live()
        self.files[name] = data + before[len(data) :]
        self.written.append(name)
        self._live()

    def get(self, name: str) -> bytes:
        try:
            return self.files[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def delete(self, name: str) -> None:
        self._live()
        self.files.pop(name, None)
        self._live()

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.files if name.startswith(prefix))

    def die_in(self, lives: int, resume: Callable[[], None]) -> None:
        """Resume, and again if the process dies in it."""
        self.lives = lives
        try:
            resume()
        except DeadError:
            resume()
        self.lives = None

    def _live(self) -> None:
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                self.lives = None
                raise DeadError
