"""Files from the network: at an address that a person gave, whole or not at all."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from .errors import PackageError, reason
from .package import MAX_FILE_BYTES

TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 16
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def fetch(address: str, path: Path) -> Path:
    """Write what is at an https address to ``path``; raises `PackageError` when not all of it comes.

    Plain http is for this machine's own servers: on a network, anybody on the way could put in another model.
    """
    check_address(address)
    opener = urllib.request.build_opener(_Redirects)
    try:
        with opener.open(address, timeout=TIMEOUT) as answer, path.open("wb") as file:
            expected, got = answer.headers.get("Content-Length"), 0
            while block := answer.read(BLOCK):
                got += len(block)
                if got > MAX_FILE_BYTES:
                    raise PackageError(f"{address} is larger than any model package")
                file.write(block)
        if expected is not None and got < int(expected):
            raise PackageError(f"{address}: the download broke off after {got} of {expected} bytes; try again")
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ValueError) as error:
        cause = getattr(error, "reason", None) or error
        said = cause if isinstance(cause, str) else reason(cause)
        raise PackageError(f"{address} cannot be fetched: {said}") from error
    except OSError as error:
        raise PackageError(f"{address} cannot be fetched: {reason(error)}") from error
    return path


def check_address(address: str) -> None:
    """Raises `PackageError` for what is neither https nor of this machine."""
    try:
        parts = urllib.parse.urlsplit(address)
        host = parts.hostname
    except ValueError as error:
        raise PackageError(f"{address} cannot be fetched: {error}") from error
    if parts.scheme != "https" and not (parts.scheme == "http" and host in THIS_MACHINE):
        raise PackageError(f"{address}: only https addresses can be fetched (http from this machine alone)")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where `check_address` lets it."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
