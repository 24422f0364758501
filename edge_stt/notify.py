"""What systemd is told: readiness, one line of status, and that the recogniser still works.

The protocol is that of sd_notify(3): datagrams of ``KEY=value`` lines to the socket in ``NOTIFY_SOCKET``. Without that
variable nothing is sent.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import TextIO

PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class Notifier:
    """Sends notifications; `alive` feeds the watchdog, at most four times in its period."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._period = 0.0
        # WATCHDOG_PID: the variables are inherited by children, for which they are not meant.
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            with contextlib.suppress(ValueError):
                self._period = int(environment.get("WATCHDOG_USEC", "0")) / 4e6
        self._last = -1e9
        self._status = ""

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)

    def ready(self) -> None:
        """The model is loaded, and the microphone open or, as the status says, awaited."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent when it changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def reloading(self) -> None:
        """The settings are being read again; `ready` ends that."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The recognising loop went round once more."""
        now = time.monotonic()
        if self._period and now - self._last >= self._period:
            self._last = now
            self._send("WATCHDOG=1")


class LogFormatter(logging.Formatter):
    """``edge-stt: level: text``; for the journal with the priority in front that sd-daemon(3) describes."""

    def __init__(self, journal: bool) -> None:
        super().__init__("%(message)s")
        self.journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        text = " ".join(super().format(record).splitlines())
        if self.journal:
            return f"<{PRIORITIES.get(record.levelno, 6)}>{text}"
        return (
            f"edge-stt: {text}" if record.levelno == logging.INFO else f"edge-stt: {record.levelname.lower()}: {text}"
        )


@functools.cache
def _own_stderr() -> TextIO:
    """Standard error under a number of its own: 2 leads nowhere while native code is silenced in another thread."""
    try:
        return os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
    except OSError:  # closed
        return sys.stderr


def set_up_logging(level: str) -> None:
    """Log to stderr, in the journal's form where that is the journal."""
    handler = logging.StreamHandler(_own_stderr())
    handler.setFormatter(LogFormatter("JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
