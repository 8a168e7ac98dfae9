"""What an exception means to who runs a command: an exit code and a sentence, or a bug with its traceback.

0 done, 1 a failure (an engine, a store, the data), 2 a user error (arguments, settings, catalog).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

FAILURE, USER_ERROR = 1, 2


class FailureError(RuntimeError):
    """A command can't do its work; the text says what to do."""


class UserError(ValueError):
    """An argument that no command can work with; the text says what to do."""


def known_exit(error: BaseException) -> tuple[int, str] | None:
    """The exit code and the sentence of an exception that is no bug; Bytewax wraps what a step raises."""
    kinds = _kinds()
    for each in _chain(error):
        for code, types in kinds.items():
            if isinstance(each, types):
                return code, str(each)
    if isinstance(error, OSError) and error.filename:
        return USER_ERROR, f"{error.filename}: {error.strerror}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _kinds() -> dict[int, tuple[type[BaseException], ...]]:
    # Here, since a command that goes well need not wait for these imports.
    from dataflows.offsets import SourceError  # noqa: PLC0415
    from dataflows.recovery import RecoveryError  # noqa: PLC0415
    from dataflows.settings import SettingsError  # noqa: PLC0415
    from dataflows.stores import StoreError  # noqa: PLC0415
    from dataflows.topics import TopicError  # noqa: PLC0415
    from operators.ceiling import CeilingExceeded  # noqa: PLC0415
    from schemas.catalog import CatalogError  # noqa: PLC0415
    from sinks.failures import StoreRefuses, StoreUnavailable  # noqa: PLC0415
    from sinks.migrate import DatabaseNewerError, MigrationEditedError  # noqa: PLC0415
    from sinks.wallet_store import RedisEmptied  # noqa: PLC0415

    failures: list[type[BaseException]] = [
        FailureError,
        SourceError,
        RecoveryError,
        StoreError,
        TopicError,
        StoreRefuses,
        StoreUnavailable,
        DatabaseNewerError,
        MigrationEditedError,
        RedisEmptied,
        CeilingExceeded,
    ]
    with suppress(ImportError):  # the extra `embedded` is not everywhere
        from dataflows.embedded import EngineError  # noqa: PLC0415

        failures.append(EngineError)
    return {FAILURE: tuple(failures), USER_ERROR: (SettingsError, CatalogError, UserError)}
