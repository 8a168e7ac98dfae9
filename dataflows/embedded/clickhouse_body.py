"""Bodies of HTTP requests and answers: bounded, chunked or not, compressed or not.

Arrow's codecs do the work (gzip, lz4 frames, zstd), as a stream, so that a small body which would
grow past the limit is refused before it has grown.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pyarrow as pa

from dataflows.embedded.clickhouse_sql import RefusedError

REQUEST_BYTES_MAX = 256 << 20
"""A body, as sent and as decompressed; past it the request is refused with status 413 and code 307."""

READ_BYTES = 1 << 20
COMPRESS_BYTES_MIN = 200
CODECS = ("zstd", "lz4", "gzip")
"""By preference; HTTP's names are Arrow's names."""


def read_body(request: BaseHTTPRequestHandler, *, keep: bool = True) -> bytes:
    """The request's body as sent; one over the limit is read to its end, so that the answer is read too."""
    parts: list[bytes] = []
    size = 0
    for part in body_parts(request):
        size += len(part)
        if keep and size <= REQUEST_BYTES_MAX:
            parts.append(part)
        else:
            parts.clear()
    if keep and size > REQUEST_BYTES_MAX:
        raise too_large()
    return b"".join(parts)


def body_parts(request: BaseHTTPRequestHandler) -> Iterator[bytes]:
    if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
        while left := int(request.rfile.readline(64).partition(b";")[0], 16):
            yield from pieces(request, left)
            request.rfile.readline(64)
        request.rfile.readline(64)
    else:
        yield from pieces(request, int(request.headers.get("Content-Length") or 0))


def pieces(request: BaseHTTPRequestHandler, left: int) -> Iterator[bytes]:
    while left:
        part = request.rfile.read(min(left, READ_BYTES))
        if not part:
            raise ConnectionResetError("the client closed its connection within a body")
        left -= len(part)
        yield part


def decompress(body: bytes, encoding: str) -> bytes:
    name = encoding.strip().lower()
    if name in ("", "identity") or not body:
        return body
    if name not in CODECS:
        raise RefusedError(432, f"Unknown compression method {name}", "UNKNOWN_COMPRESSION_METHOD")
    parts = []
    size = 0
    with pa.CompressedInputStream(pa.BufferReader(body), name) as stream:
        while part := stream.read(READ_BYTES):
            size += len(part)
            if size > REQUEST_BYTES_MAX:
                raise too_large()
            parts.append(part)
    return b"".join(parts)


def compress(content: bytes, accepted: list[str]) -> tuple[bytes, str | None]:
    """The content in the best encoding the client accepts, and that encoding's name."""
    encoding = next((name for name in CODECS if name in accepted), None)
    if encoding is None or len(content) < COMPRESS_BYTES_MIN:
        return content, None
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, encoding) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes(), encoding


def too_large() -> RefusedError:
    return RefusedError(307, f"The request is over {REQUEST_BYTES_MAX} bytes", "TOO_MANY_BYTES")
