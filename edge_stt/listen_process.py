"""The daemon without a command line: what `edge-stt listen` becomes once it has understood its arguments.

The libraries that read a command line would take 28 MB for as long as the daemon runs, which is months. ``exec``
leaves them behind and keeps the process, which is the one that systemd knows and kills.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from .daemon_config import DaemonConfig, check, default_path
from .errors import EdgeSttError
from .exits import run_to_exit
from .settings import load

# Ctrl-C while modules are imported just ends it, unless whoever started this has it ignored.
START = """
import signal, sys
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path[:] = {path!r}
from edge_stt.listen_process import main
main()
"""


@dataclass(frozen=True)
class Task:
    """What is to be heard, and with which settings: a file's (``path``), and over it those ``given`` by dotted name.

    Without a ``path`` they are those of the usual file, which may come to be while the daemon runs.
    ``input`` is a sound file or ``-``, None the microphone. ``raw`` is Hz and channels of what comes by a pipe.
    """

    path: str | None
    given: dict[str, Any]
    input: str | None = None
    fast: bool = False
    raw: tuple[int, int] = (16_000, 1)

    def settings(self) -> DaemonConfig:
        """Read the settings, as at every reload; raises `ConfigError`."""
        settings = load(DaemonConfig(), self.path or default_path(), self.given)
        check(settings)
        return settings

    def run(self) -> None:
        """Listen to the end; raises `EdgeSttError` for what keeps it from that."""
        from .daemon import Daemon
        from .notify import set_up_logging
        from .sources import FileSource, PipeSource, Source

        settings = self.settings()
        set_up_logging(settings.log.level)
        source: Source | None = None
        if self.input is not None:
            source = PipeSource(*self.raw) if self.input == "-" else FileSource(self.input, not self.fast)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        if error := Daemon(settings, source, self.settings).run():
            raise EdgeSttError(error)


def become(task: Task) -> NoReturn:
    """Go on as a process that does nothing else. Modules come from where they came from here."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    isolated = ["-I"] if sys.flags.isolated else []
    start = START.format(path=sys.path)
    os.execv(sys.executable, [sys.executable, *isolated, "-c", start, json.dumps(asdict(task))])


def main() -> None:
    """What `become` starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    values = json.loads(sys.argv[1])
    task = Task(**{**values, "raw": tuple(values["raw"])})
    run_to_exit(task.run)
