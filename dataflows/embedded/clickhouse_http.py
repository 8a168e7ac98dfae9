"""One HTTP request to the embedded ClickHouse: authenticate, read, run, answer.

in: GET or POST / with the query in ?query= or the body, settings and param_* in the URL, credentials in
X-ClickHouse-User/-Key, Basic auth or the URL. out: rows, or ClickHouse's error text, code header and status.
Each request gets a connection of its own, so that settings never leak; session_id keeps one between requests.
Not spoken: native compressed frames (compress=1, decompress=1) and client_protocol_version.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from dataflows.embedded.clickhouse_body import compress, read_body
from dataflows.embedded.clickhouse_request import Request
from dataflows.embedded.clickhouse_sql import STREAMS, RefusedError, with_format

if TYPE_CHECKING:
    from dataflows.embedded.clickhouse import Server, User

STREAMED = frozenset("Native TabSeparated TSV CSV RowBinary JSONEachRow JSONCompactEachRow NDJSON".split())  # noqa: SIM905
"""Formats whose chunks, one after another, are the whole result."""

STATUS = {
    code: status
    for status, codes in {
        400: (6, 26, 27, 36, 38, 41, 42, 43, 53, 62, 70, 386, 457),
        401: (192, 193, 194, 516),
        403: (164, 291, 292, 497),
        404: (46, 47, 60, 81, 115, 218, 219),
        408: (159, 160, 209),
        413: (307,),
        501: (48,),
        503: (202, 252),
    }.items()
    for code in codes
}
APPEND_BYTES = 16 << 20
SESSION_TIMEOUT_S = 60.0

Headers = list[tuple[str, str]]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    timeout = 600  # seconds an idle connection is kept

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path in ("/ping", "/replicas_status"):
            return self._answer(200, b"Ok.\n")
        try:
            parameters = dict(parse_qsl(url.query, keep_blank_values=True))
            try:
                name, user = self._authenticated(parameters)
            except RefusedError:
                read_body(self, keep=False)
                raise
            if url.path != "/":
                read_body(self, keep=False)
                return self._answer(404, f"There is no handle {url.path}\n".encode())
            request = Request(self, parameters, name, readonly=user.readonly)
            return self._run(request) if request.sql.strip() else self._answer(200, b"Ok.\n")
        except ConnectionError:
            self.close_connection = True
        except Exception as error:  # whatever the engine says is the client's to read
            self._fail(str(error))

    do_POST = do_HEAD = do_GET  # noqa: N815 - the names are http.server's

    def _authenticated(self, parameters: dict[str, str]) -> tuple[str, User]:
        """Name and user of the request's credentials; the body has not been read yet."""
        name = self.headers.get("X-ClickHouse-User") or parameters.get("user", "default")
        key = self.headers.get("X-ClickHouse-Key") or parameters.get("password", "")
        if (basic := self.headers.get("Authorization", "")).startswith("Basic "):
            try:
                name, _, key = base64.b64decode(basic.removeprefix("Basic ")).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                key = ""
        user = self.server.users.get(name)
        if user is None or not hmac.compare_digest(user.password.encode(), key.encode()):
            message = (
                f"{name}: Authentication failed: password is incorrect, or there is no user with such name"
            )
            raise RefusedError(516, message, "AUTHENTICATION_FAILED")
        return name, user

    def _run(self, request: Request) -> None:
        with self._connection(request) as connection:
            prepare(connection, request)
            head = [
                ("X-ClickHouse-Query-Id", request.id),
                ("X-ClickHouse-Timezone", self.server.engine.timezone),
            ]
            if request.format:
                head.append(("X-ClickHouse-Format", request.format))
            compressed = any(name in request.encodings for name in ("zstd", "lz4", "gzip"))
            streams = request.format in STREAMED and STREAMS.match(request.sql) is not None
            if streams and not compressed and not request.on("wait_end_of_query"):
                self._stream(connection, request, head)
            else:
                self._whole(connection, request, head)

    @contextmanager
    def _connection(self, request: Request) -> Iterator[Any]:
        """A connection of this request's own, or the one of its session, which nobody else uses meanwhile."""
        engine = self.server.engine
        if request.session_id is None:
            with engine.connect() as connection:
                yield connection
        else:
            timeout_s = float(request.parameters.get("session_timeout") or SESSION_TIMEOUT_S)
            session = engine.session(request.user, request.session_id, timeout_s)
            try:
                yield session.connection
            finally:
                session.lock.release()

    def _whole(self, connection: Any, request: Request, head: Headers) -> None:
        started_ns = time.perf_counter_ns()
        summary = dict.fromkeys(("read_rows", "read_bytes", "written_rows", "written_bytes"), 0)
        content = b""
        if request.insert and not (request.insert.format == "Values" and request.values):
            done = insert(
                connection, request.insert.statement.decode(), request.insert.format, request.insert.data
            )
            summary |= {"written_rows": done.rows_written, "written_bytes": done.bytes_written}
        else:
            # Inline VALUES with bound values: the one INSERT with data that query() reads to its end.
            values = b" VALUES " + request.insert.data if request.insert else b""
            sql = (request.sql + values).decode("utf-8", "surrogateescape")
            result = connection.query(sql, request.format or "TabSeparated", params=request.values)
            content = result.bytes() or no_rows(connection, request)
            summary |= {"read_rows": result.storage_rows_read(), "read_bytes": result.storage_bytes_read()}
            summary |= {"result_rows": result.rows_read(), "result_bytes": len(content)}
        summary["elapsed_ns"] = time.perf_counter_ns() - started_ns
        head.append(
            ("X-ClickHouse-Summary", json.dumps({name: str(value) for name, value in summary.items()}))
        )
        content, encoding = compress(content, request.encodings)
        if encoding:
            head.append(("Content-Encoding", encoding))
        self._answer(200, content, head, content_type(request.format))

    def _stream(self, connection: Any, request: Request, head: Headers) -> None:
        sql = request.sql.decode("utf-8", "surrogateescape")
        chunks = iter(connection.send_query(sql, request.format, params=request.values))
        chunk = next(chunks, None)  # an early error is raised here, before the headers
        tag = uuid.uuid4().hex[:16]
        self.send_response(200)
        head += [("Content-Type", content_type(request.format)), ("X-ClickHouse-Exception-Tag", tag)]
        self._send_headers([*head, ("Transfer-Encoding", "chunked")])
        if self.command == "HEAD":
            return
        try:
            if chunk is None:
                self._put(no_rows(connection, request))
            while chunk is not None:
                self._put(chunk.bytes())
                chunk = next(chunks, None)
        except ConnectionError:
            raise
        except Exception as error:  # ClickHouse 25.11 and later end a broken body like this
            message = f"{error}\n"
            trailer = f"\r\n__exception__\r\n{tag}\r\n{message}{len(message)} {tag}\r\n__exception__\r\n"
            self._put(trailer.encode())
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _put(self, content: bytes | None) -> None:
        if content:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def _fail(self, message: str) -> None:
        found = re.search(r"Code: (\d+)", message)
        code = int(found[1]) if found else 1001
        text = message[found.start() :] if found else f"Code: 1001. DB::Exception: {message}. (STD_EXCEPTION)"
        version = f" (version {self.server.engine.version})"
        content = f"{text.strip().removesuffix(version)}{version}\n".encode()
        self._answer(STATUS.get(code, 500), content, [("X-ClickHouse-Exception-Code", str(code))])

    def _answer(
        self,
        status: int,
        content: bytes,
        head: Iterable[tuple[str, str]] = (),
        content_type: str = "text/plain",
    ) -> None:
        self.send_response(status)
        self._send_headers([("Content-Type", content_type), *head, ("Content-Length", str(len(content)))])
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def _send_headers(self, head: Headers) -> None:
        for name, value in head:
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the signature is http.server's
        """One line a request would be the biggest file of the directory."""


def prepare(connection: Any, request: Request) -> None:
    """Database, readonly, settings and external tables, before the statement itself.

    readonly=1 comes first: its user can change no setting, as in ClickHouse.
    """
    if request.database:
        connection.query(f"USE {quoted(request.database, '`')}")
    if request.readonly == 1:
        connection.query("SET readonly = 1")
    for name, value in request.settings.items():
        connection.query(f"SET {name} = {quoted(value, chr(39))}")
    for table in request.external:
        name = quoted(table.name, "`")
        connection.query(f"CREATE TEMPORARY TABLE {name} ({table.structure})")
        insert(connection, f"INSERT INTO {name}", table.format, table.content)
    if request.readonly == 2:
        connection.query("SET readonly = 2")


def insert(connection: Any, statement: str, data_format: str, data: bytes) -> Any:
    with connection.send_insert(statement, data_format) as opened:
        for start in range(0, len(data), APPEND_BYTES):
            opened.append(data[start : start + APPEND_BYTES])
        return opened.finish()


def no_rows(connection: Any, request: Request) -> bytes:
    """What a format says of a result without rows, where chdb says nothing: Native names columns and types.

    Layout: ClickHouse's Native block of 0 rows, as a server sends it; without it a client sees no columns.
    """
    if request.format != "Native":
        return b""
    described = "JSONCompactEachRowWithNamesAndTypes"
    sql = with_format(request.sql, described).decode("utf-8", "surrogateescape")
    lines = connection.query(sql, described, params=request.values).bytes().splitlines()
    names, types = json.loads(lines[0]), json.loads(lines[1])
    texts = b"".join(counted(text) for column in zip(names, types, strict=True) for text in column)
    return varuint(len(names)) + varuint(0) + texts


def counted(text: str) -> bytes:
    return varuint(len(text.encode())) + text.encode()


def varuint(number: int) -> bytes:
    """LEB128: seven bits a byte, the lowest first, the highest bit set on all but the last."""
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    content.append(number)
    return bytes(content)


def quoted(text: str, quote: str) -> str:
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


def content_type(result_format: str | None) -> str:
    if result_format is None:
        return "text/plain; charset=UTF-8"
    if result_format.startswith("JSON"):
        return "application/json; charset=UTF-8"
    if result_format.startswith(("Native", "Row", "Arrow", "Parquet")):
        return "application/octet-stream"
    return "text/tab-separated-values; charset=UTF-8"
