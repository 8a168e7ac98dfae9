"""What one HTTP request asks of ClickHouse: statement or insert, format, database, settings, bound values.

in: URL parameters, headers and a body that may be a form, whose files are external tables.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler

from dataflows.embedded.clickhouse_body import decompress, read_body
from dataflows.embedded.clickhouse_sql import (
    RefusedError,
    insert_of,
    joined,
    refuse_host_access,
    result_format,
)

PROTOCOL_PARAMETERS = """
    query database default_format user password quota_key role stacktrace client_protocol_version query_id
    session_id session_timeout session_check close_session wait_end_of_query buffer_size compress decompress
    send_progress_in_http_headers http_headers_progress_interval_ms enable_http_compression
    add_http_cors_header http_zlib_compression_level network_compression_method
    cancel_http_readonly_queries_on_client_close
"""
RESERVED = frozenset(PROTOCOL_PARAMETERS.split())
"""Every other parameter is a setting."""


@dataclass(frozen=True)
class External:
    """A table that exists for one query; `structure` is a column list as in CREATE TABLE."""

    name: str
    structure: str
    format: str
    content: bytes


class Request:
    """A request's parts, decided once; `readonly` is 1 for an analyst, 2 for a GET, as in ClickHouse."""

    def __init__(
        self, handler: BaseHTTPRequestHandler, parameters: dict[str, str], user: str, *, readonly: bool
    ) -> None:
        self.user, self.parameters = user, parameters
        self.external: list[External] = []
        self.id = parameters.get("query_id") or str(uuid.uuid4())
        self.session_id = parameters.get("session_id")
        if self.on("compress") or self.on("decompress"):
            raise RefusedError(
                48, "Native compressed frames are not served: use HTTP compression", "NOT_IMPLEMENTED"
            )
        header = handler.headers.get
        body = decompress(read_body(handler), header("Content-Encoding", ""))
        if header("Content-Type", "").startswith("multipart/form-data"):
            self._read_form(header("Content-Type", ""), body)
            body = b""
        query = parameters.get("query", "").encode("utf-8", "surrogateescape")
        self.insert = insert_of(query, body)
        self.sql = self.insert.statement if self.insert else joined(query, body)
        refuse_host_access(self.sql, readonly=readonly)
        default = parameters.get("default_format") or header("X-ClickHouse-Format") or "TabSeparated"
        self.format = None if self.insert else result_format(self.sql, default)
        self.database = parameters.get("database") or header("X-ClickHouse-Database")
        self.settings = {
            name: value
            for name, value in parameters.items()
            if name not in RESERVED and not name.startswith("param_") and re.fullmatch(r"\w+", name)
        }
        self.values = {k.removeprefix("param_"): v for k, v in parameters.items() if k.startswith("param_")}
        accepted = header("Accept-Encoding", "") if self.on("enable_http_compression") else ""
        self.encodings = [name.partition(";")[0].strip() for name in accepted.split(",")]
        self.readonly = 1 if readonly else 2 if handler.command == "GET" and not self.session_id else 0

    def on(self, name: str) -> bool:
        return self.parameters.get(name) == "1"

    def _read_form(self, content_type: str, body: bytes) -> None:
        """Fields are parameters; files are external tables, described by `<name>_structure` and `_format`."""
        parser = BytesParser(policy=HTTP)
        form = parser.parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        files = []
        for part in form.iter_parts():
            name = str(part.get_param("name", header="content-disposition"))
            content = bytes(part.get_payload(decode=True))
            if part.get_filename():
                files.append((name, content))
            else:
                self.parameters[name] = content.decode("utf-8", "surrogateescape")
        for name, content in files:
            structure = self.parameters.pop(f"{name}_structure", None) or self.parameters.pop(
                f"{name}_types", ""
            )
            self.external.append(
                External(name, structure, self.parameters.pop(f"{name}_format", "TSV"), content)
            )
