"""Files from the network: at an address that a person gave, whole or not at all."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path

from .errors import PackageError
from .package import MAX_FILE_BYTES

TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 16


def fetch(address: str, path: Path) -> Path:
    """Write what is at an https address to ``path``; raises `PackageError` when not all of it comes."""
    scheme = address.split("://", 1)[0].lower()
    if scheme not in ("https", "http"):
        raise PackageError(f"{address}: only https (or http) addresses can be fetched")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, path.open("wb") as file:
            expected, got = answer.headers.get("Content-Length"), 0
            while block := answer.read(BLOCK):
                got += len(block)
                if got > MAX_FILE_BYTES:
                    raise PackageError(f"{address} is larger than any model package")
                file.write(block)
        if expected is not None and got < int(expected):
            raise PackageError(f"{address}: the download broke off after {got} of {expected} bytes; try again")
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise PackageError(f"{address} cannot be fetched: {reason}") from error
    except OSError as error:
        raise PackageError(f"{address} cannot be fetched: {error.strerror or error}") from error
    return path
