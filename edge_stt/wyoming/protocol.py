"""The Wyoming protocol: messages on a stream, and the addresses of servers.

A message is a line of JSON (``type``, and where there are any ``data``, ``data_length``, ``payload_length``), then
``data_length`` bytes of JSON that is added to ``data``, then ``payload_length`` bytes. What the other side says is not
trusted: all three parts have limits, checked before anything is read or allocated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ..byte_streams import printable_path
from ..errors import EdgeSttError, UsageError
from ..unix_socket import listen_on, remove

DEFAULT_PORT = 10_300
HEADER_BYTES = 1 << 16
DATA_BYTES = 1 << 20  # thousands of names of rooms and lamps
PAYLOAD_BYTES = 1 << 22  # two minutes of 16-bit samples at 16 kHz in one message
BACKLOG = 32


class ProtocolError(EdgeSttError):
    """The other side said what cannot be understood or is not allowed; the connection cannot go on."""


@dataclass(frozen=True)
class Message:
    """One message; ``payload`` are samples, or nothing."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def encode(self) -> bytes:
        """As it goes over the wire."""
        header: dict[str, Any] = {"type": self.type}
        # In ASCII: half a surrogate pair, which a client may have sent for an echo, cannot be written otherwise.
        data = json.dumps(self.data).encode() if self.data else b""
        if data:
            header["data_length"] = len(data)
        if self.payload:
            header["payload_length"] = len(self.payload)
        return json.dumps(header).encode() + b"\n" + data + self.payload


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next message, None at the end of the stream; raises `ProtocolError`. The reader's limit is that of lines."""
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise ProtocolError(f"a header of more than {HEADER_BYTES} bytes") from error
    except asyncio.IncompleteReadError as error:
        if not error.partial.strip():
            return None
        raise ProtocolError("it ended in the middle of a header") from error
    header = _json_object(line, "the header")
    kind = header.get("type")
    if not isinstance(kind, str) or not kind:
        raise ProtocolError("a header without a type")
    data = header.get("data") or {}
    if not isinstance(data, dict):
        raise ProtocolError("data that is no JSON object")
    if length := _length(header, "data_length", DATA_BYTES):
        data = {**data, **_json_object(await _exactly(reader, length), "the data")}
    return Message(kind, data, await _exactly(reader, _length(header, "payload_length", PAYLOAD_BYTES)))


def _length(header: dict[str, Any], name: str, limit: int) -> int:
    length = header.get(name)
    if length is None:
        return 0
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= limit:
        raise ProtocolError(f"a {name} of {length!r:.20}; at most {limit} bytes are taken")
    return length


async def _exactly(reader: asyncio.StreamReader, length: int) -> bytes:
    try:
        return await reader.readexactly(length) if length else b""
    except asyncio.IncompleteReadError as error:
        raise ProtocolError("it ended in the middle of a message") from error


def _json_object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # nested a hundred thousand times
        raise ProtocolError(f"{what} is not JSON; is this a client of the Wyoming protocol?") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} is no JSON object")
    return value


@dataclass(frozen=True)
class Address:
    """Where to listen: ``tcp://HOST:PORT``, ``unix:///PATH``."""

    uri: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, uri: str) -> Address:
        """Raises `UsageError` for anything else."""
        try:
            parts = urlsplit(uri)
            port = DEFAULT_PORT if parts.port is None else parts.port
        except ValueError as error:
            raise UsageError(f"{printable_path(uri)}: {error}") from error
        path = uri.removeprefix("unix://")
        if parts.scheme == "tcp" and parts.hostname and parts.path in ("", "/"):
            return cls(uri, host=parts.hostname, port=port)
        if parts.scheme == "unix" and path.startswith("/") and len(path.encode()) <= 107 and "\0" not in path:
            return cls(uri, path=path)
        raise UsageError(f"{printable_path(uri)}: write tcp://HOST:PORT or unix:///PATH (of 107 bytes at most)")

    def listen(self) -> list[socket.socket]:
        """Listening sockets, one for each address that the host has; raises `EdgeSttError`."""
        if self.path:
            return [listen_on(self.path, BACKLOG)]
        sockets: list[socket.socket] = []
        try:
            for family, _, _, _, address in self._addresses():
                with contextlib.suppress(OSError) if sockets else contextlib.nullcontext():
                    sockets.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
        except OSError as error:
            raise EdgeSttError(f"cannot listen on {self.uri}: {error.strerror or error}") from error
        return sockets

    def clean_up(self) -> None:
        """Remove what `listen` left on the disk."""
        if self.path:
            remove(self.path)

    def _addresses(self) -> Iterator[Any]:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        yield from sorted(found, key=lambda entry: entry[0] != socket.AF_INET)  # IPv6 may be turned off
