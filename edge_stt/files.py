"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .byte_streams import printable_path
from .errors import EdgeSttError


def write_atomically(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Write bytes, or text as UTF-8, folders made as needed; raises `EdgeSttError` when that cannot be.

    Lone surrogates, which names that are not UTF-8 are full of, become ``\\udc80`` and the like.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            for piece in [content] if isinstance(content, str | bytes) else content:
                file.write(piece.encode("utf-8", "backslashreplace") if isinstance(piece, str) else piece)
    except OSError as error:
        raise EdgeSttError(f"cannot write {printable_path(path)}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` once all of it is written, and leaves nothing behind if it fails.

    A reader sees the old file or the new one, also after the power went: the new one is on the disk before it gets
    the name. A link keeps pointing where it does. What is no regular file, such as a device or a pipe, is written to
    as it stands: in its place, the file would be in the way of every other program. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as file:
            yield file
        return
    # A short name of its own: that of the file with something added might be longer than the system allows.
    handle, temporary = tempfile.mkstemp(prefix=".edge-stt-", dir=path.parent)
    try:
        try:
            with open(handle, "wb", closefd=False) as file:  # what wraps it may close it too early for fsync
                yield file
            os.fchmod(handle, 0o666 & ~_umask())  # mkstemp's own mode is for the owner alone
            os.fsync(handle)
        finally:
            os.close(handle)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
