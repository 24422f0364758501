"""Another machine over ssh: commands run there, files sent there, and what goes wrong said in one line."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import EdgeSttError, UsageError

CONNECT_SECONDS = 15
# What ssh says → what it means. The first that fits counts.
REASONS = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the known one; if it was set up anew, {forget}"),
    ("Host key verification failed", "its host key is not known; connect once by hand and compare it: ssh {host}"),
    ("Permission denied", "it does not let you in; send it your key first: ssh-copy-id {host}"),
    ("Could not resolve hostname", "there is no machine of that name"),
    ("Connection refused", "nothing there answers to ssh; is it switched on, and ssh enabled?"),
    ("timed out", "it does not answer; is it switched on, and in this network?"),
    ("No route to host", "it cannot be reached from this network"),
)


class RemoteError(EdgeSttError):
    """The other machine cannot be reached, or a command failed there."""


class Remote:
    """One connection for all commands (ssh's control socket), so that a password is asked for once."""

    def __init__(self, host: str, options: tuple[str, ...] = ()) -> None:
        """``host`` as ssh takes it, ``pi@kitchen``; ``options`` are those of ssh, ``-p 2222``."""
        if not host or host.startswith("-"):
            raise UsageError(f"{host!r} is no host; write user@host")
        self.host, self._as_root = host, ""
        self._folder = tempfile.TemporaryDirectory(prefix="edge-stt-ssh-")
        self._ssh = [
            *("ssh", "-T", "-o", "ControlMaster=auto", "-o", f"ControlPath={self._folder.name}/%C"),
            *("-o", "ControlPersist=60", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "ServerAliveInterval=15"),
            *(() if sys.stdin.isatty() else ("-o", "BatchMode=yes")),
            *options,
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run([*self._ssh, "-O", "exit", self.host], capture_output=True, check=False)
        self._folder.cleanup()

    def become_root(self, how: str) -> None:
        """What to put before commands of `root`: ``sudo -n``, or nothing for who is root already."""
        self._as_root = how

    def run(self, script: str, stdin: bytes = b"") -> str:
        """Output of a shell script that runs there; raises `RemoteError` with its last line when it fails."""
        return self._run(["sh", "-c", script], stdin)

    def root(self, script: str, stdin: bytes = b"") -> str:
        """The same as root."""
        return self._run([*self._as_root.split(), "sh", "-c", script], stdin)

    def send(self, path: Path, target: str) -> None:
        """Copy a file there; raises `RemoteError` when it does not arrive whole."""
        content = path.read_bytes()
        self.run(f"cat > {shlex.quote(target)}", content)
        there = self.run(f"sha256sum < {shlex.quote(target)}").split()[:1]
        if there != [hashlib.sha256(content).hexdigest()]:
            raise RemoteError(f"{self.host}: {path.name} did not arrive whole; try again")

    def _run(self, command: list[str], stdin: bytes) -> str:
        try:
            done = subprocess.run(
                [*self._ssh, self.host, shlex.join(command)], input=stdin, capture_output=True, check=False
            )
        except FileNotFoundError as error:
            raise RemoteError("ssh is not installed: apt-get install openssh-client") from error
        said = done.stderr.decode(errors="replace").strip()
        if done.returncode == 255:
            raise RemoteError(f"{self.host}: {self._reason(said)}")
        if done.returncode:
            lines = (said or done.stdout.decode(errors="replace").strip() or "no reason given").splitlines()
            raise RemoteError(f"{self.host}: {lines[-1].strip()}")
        return done.stdout.decode(errors="replace")

    def _reason(self, said: str) -> str:
        name = self.host.rpartition("@")[2]
        for words, meaning in REASONS:
            if words in said:
                return meaning.format(host=self.host, forget=f"ssh-keygen -R {name}")
        return (said.splitlines() or ["ssh failed and does not say why"])[-1]
