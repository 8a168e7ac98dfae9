"""A password per directory: made once, so that the same directory gives the same URL again."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

BYTES = 24


def password(directory: Path, name: str = "password") -> str:
    """The text of `directory/name`, a file only its owner can read; made of 24 random bytes if missing.

    Written aside and linked into place: two processes that start at once agree on one password, and
    a crash leaves either no file or a whole one.
    """
    file = directory / name
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        draft = directory / f".{name}.{secrets.token_hex(4)}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_urlsafe(BYTES))
        try:
            os.link(draft, file)
        except FileExistsError:
            pass  # another process was first: its password counts
        finally:
            draft.unlink()
    return file.read_text()
