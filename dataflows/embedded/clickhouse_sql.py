"""What a SQL text asks for, as far as a server in front of the engine must know before it runs it.

The engine reads an INSERT's inline data only up to the first empty line and *executes the rest as SQL*:
a payload with "\\n\\nDROP TABLE t" drops the table. So data never reaches the engine inside a query: an
INSERT is split here into statement, format and data, and one that can't be split is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD_BYTES_MAX = 64 << 10
"""An INSERT's statement, its column list included; a longer one is refused."""

FORMAT_BYTES_MAX = 300
"""How far from the end of a statement its FORMAT clause begins, settings included."""

SPACE = rb"(?:\s|(?:--|#)[^\n]*(?:\n|\Z)|/\*.*?\*/)"
NAME = rb"(?:`[^`\\]*`|\"[^\"\\]*\"|\w+)"
IS_INSERT = re.compile(
    rb"\A" + SPACE + rb"*(?:INSERT\b|WITH\b.*\bINSERT\s+INTO\b)", re.IGNORECASE | re.DOTALL
)
COLUMNS = rb"\((?:[^()`\"']|`[^`\\]*`|\"[^\"\\]*\")*\)"
INSERT_HEAD = re.compile(
    rb"\A" + SPACE + rb"*(?P<statement>INSERT\s+INTO\s+(?:TABLE\s+)?" + NAME + rb"(?:\s*\.\s*" + NAME + rb")?"
    rb"\s*(?:" + COLUMNS + rb")?\s*(?:SETTINGS\s+[^()]*?)?)\s*"
    rb"(?:(?<!\w)FORMAT\s+(?P<format>\w+)[ \t]*;?\r?\n?|(?<!\w)VALUES\b"
    rb"|(?P<select>(?<!\w)(?:SELECT|WITH)\b|\())",
    re.IGNORECASE | re.DOTALL,
)
READS_DATA = re.compile(rb"\bFORMAT\s+\w|\binput\s*\(", re.IGNORECASE)
GIVES_RESULT = re.compile(
    rb"\A(?:" + SPACE + rb"|\()*(?:SELECT|WITH|SHOW|DESC|DESCRIBE|EXPLAIN|EXISTS|CHECK|FROM|VALUES)\b",
    re.IGNORECASE | re.DOTALL,
)
STREAMS = re.compile(rb"\A(?:" + SPACE + rb"|\()*(?:SELECT|WITH|FROM)\b", re.IGNORECASE | re.DOTALL)
"""The engine gives the results of other statements (EXISTS, SHOW, ...) only whole."""
RESULT_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:SETTINGS\b[^;]*)?;?\s*\Z", re.IGNORECASE)

HOST_FILES = re.compile(rb"\b(?:OUTFILE|INFILE)\b", re.IGNORECASE)
HOST_READERS = re.compile(rb"\b(?:file|python)\b", re.IGNORECASE)
KAFKA_ENGINE = re.compile(rb"\bENGINE\s*=?\s*Kafka\b", re.IGNORECASE)
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})", re.IGNORECASE)


class RefusedError(Exception):
    """A request this server turns down itself, as an error of ClickHouse: code, sentence, name."""

    def __init__(self, code: int, message: str, name: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}. ({name})")


@dataclass(frozen=True)
class Insert:
    """`statement` without its FORMAT clause, as chdb's send_insert wants it, and the data's bytes."""

    statement: bytes
    format: str
    data: bytes


def insert_of(query: bytes, body: bytes) -> Insert | None:
    """The INSERT with data that ?query= and the body make; None if it is anything else, INSERT SELECT too."""
    sql = joined(query, body)
    if not IS_INSERT.match(sql):
        return None
    head = INSERT_HEAD.match(query)
    if head and not head["select"] and not query[head.end() :].strip():
        return Insert(head["statement"], (head["format"] or b"Values").decode(), body)
    head = INSERT_HEAD.match(sql, 0, HEAD_BYTES_MAX)
    if head is None:
        raise RefusedError(
            62, "Only INSERT INTO table (columns) FORMAT, VALUES and SELECT are served", "SYNTAX_ERROR"
        )
    if head["select"]:
        if READS_DATA.search(sql, head.start("select")):
            raise RefusedError(48, "INSERT SELECT with FORMAT or input() is not served", "NOT_IMPLEMENTED")
        return None
    return Insert(head["statement"], (head["format"] or b"Values").decode(), sql[head.end() :])


def joined(query: bytes, body: bytes) -> bytes:
    return query + b"\n" + body if query and body else query or body


def result_format(sql: bytes, default: str) -> str | None:
    """The output format of a statement that gives rows, None for one that gives none."""
    if not GIVES_RESULT.match(sql):
        return None
    named = RESULT_FORMAT.search(sql, max(0, len(sql) - FORMAT_BYTES_MAX))
    return named[1].decode() if named else default


def with_format(sql: bytes, name: str) -> bytes:
    """The statement with its FORMAT clause, if it has one, naming another format."""
    named = RESULT_FORMAT.search(sql, max(0, len(sql) - FORMAT_BYTES_MAX))
    return sql[: named.start(1)] + name.encode() + sql[named.end(1) :] if named else sql


def refuse_host_access(sql: bytes, *, readonly: bool) -> None:
    """Turn down what the engine would do to this machine, even in a readonly=1 query (measured).

    `readonly`: refuse also the scalar function file(), which readonly=1 lets read /etc/passwd, wherever its
    name appears (`APPLY(file)`, `arrayMap(file, …)`, `\\x66ile`). A value with that word can be bound.
    """
    if HOST_FILES.search(sql):
        raise RefusedError(48, "INTO OUTFILE and FROM INFILE are not served", "NOT_IMPLEMENTED")
    if KAFKA_ENGINE.search(sql):
        # CREATE fails and leaves a table behind that makes the directory impossible to open.
        raise RefusedError(48, "The Kafka engine does not work in chdb", "NOT_IMPLEMENTED")
    if readonly:
        plain = ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), sql)
        if HOST_READERS.search(sql) or HOST_READERS.search(plain):
            message = "The words file and python are refused to a read-only user: bind them as a parameter"
            raise RefusedError(497, message, "ACCESS_DENIED")
