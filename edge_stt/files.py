"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .byte_streams import printable_path
from .errors import EdgeSttError


def write_atomically(path: Path, pieces: Iterable[str]) -> None:
    """Write text as UTF-8, folders made as needed; raises `EdgeSttError` when that cannot be.

    A reader sees the old file or the new one, also after the power went: the new one is on the disk before it gets
    the name. Lone surrogates, which names that are not UTF-8 are full of, become ``\\udc80`` and the like.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A short name of its own: that of the file with something added might be longer than the system allows.
        handle, temporary = tempfile.mkstemp(prefix=".edge-stt-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                file.writelines(pieces)
                file.flush()
                os.fchmod(file.fileno(), 0o666 & ~_umask())  # mkstemp's own mode is for the owner alone
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise EdgeSttError(f"cannot write {printable_path(path)}: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
