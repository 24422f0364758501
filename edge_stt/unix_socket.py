"""Unix sockets to listen on: a stale file is removed, one in use is not."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from .byte_streams import printable_path
from .errors import EdgeSttError

MODE = 0o660  # for the daemon's user and group


def listen_on(path: str, backlog: int = 16) -> socket.socket:
    """A listening stream socket at ``path``; raises `EdgeSttError` when another program listens there."""
    name = printable_path(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path, name)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        server.bind(path)
        Path(path).chmod(MODE)
        server.listen(backlog)
    except OSError as error:
        server.close()
        raise EdgeSttError(f"cannot listen on {name}: {error.strerror or error}") from error
    except EdgeSttError:
        server.close()
        raise
    return server


def _remove_stale(path: str, name: str) -> None:
    """Remove a socket nobody listens on, left by a daemon that was killed."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise EdgeSttError(f"{name} exists and is no socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            remove(path)
            return
        except OSError as error:
            raise EdgeSttError(f"cannot tell whether {name} is in use: {error.strerror or error}") from error
    raise EdgeSttError(f"{name} is in use by another program; stop that or choose another path")


def remove(path: str) -> None:
    """Remove a socket's file, if it is there."""
    with contextlib.suppress(OSError):
        Path(path).unlink()
