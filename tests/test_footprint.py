"""What the daemon keeps in memory: the recogniser, the process with the microphone, and no command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from edge_stt.audio import read_audio

from .conftest import ROOT
from .daemon import MODERN, Daemon
from .test_microphone import Pulse, needs_pulse, needs_pyaudio, pulse, spoken

__all__ = ["pulse", "spoken"]  # fixtures
MOST = 120.0  # MB, of both processes


def resident(pid: int) -> float:
    """Megabytes that a process and its children have in memory, shared pages by the share of each (Pss)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    threads = Path(f"/proc/{pid}/task").glob("*/children")  # each has those that it began
    children = [int(child) for thread in threads for child in thread.read_text(encoding="ascii").split()]
    return int(rollup.split("Pss:")[1].split()[0]) / 1024 + sum(map(resident, children))


def test_the_daemon_has_forgotten_the_command_line() -> None:
    """It has the memory of a program that never had one, and is the process that was started."""
    speech = (read_audio(MODERN) * 32767).astype("<i2").tobytes()
    with Daemon("--input", "-", stdin=subprocess.PIPE) as daemon:
        assert daemon.process.stdin is not None
        pipe = daemon.process.stdin.buffer  # type: ignore[attr-defined]
        pipe.write(3 * (speech + bytes(96_000)))
        pipe.flush()
        daemon.wait_for("final", after=daemon.wait_for("final"))
        maps = Path(f"/proc/{daemon.process.pid}/maps").read_text(encoding="utf-8")
        assert "pydantic" not in maps
        assert resident(daemon.process.pid) < MOST - 10.0
        pipe.close()
        assert daemon.end() == 0


def test_modules_of_the_command_line_are_not_needed() -> None:
    code = "import sys, edge_stt.listen_process, edge_stt.daemon; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"typer", "click", "pydantic", "rich", "asyncio", "soundfile", "paho", "http", "ssl", "multiprocessing"}
    assert not heavy & {name.split(".")[0] for name in done.stdout.split()}


@needs_pyaudio
@needs_pulse
def test_both_processes_are_small(pulse: Pulse, spoken: Path) -> None:
    """Once it has recognised from a microphone; the network's memory is taken when it first runs."""
    with Daemon(env=pulse.env) as daemon:
        at = daemon.wait_for("listening")
        for _ in range(3):  # sound may drop out on a busy machine
            time.sleep(1.5)
            pulse.play(spoken).wait()
            if "speech" in [event["event"] for event in daemon.events]:
                break
        daemon.wait_for("speech", after=at)
        assert resident(daemon.process.pid) <= MOST, os.getloadavg()
        assert daemon.stop() == 0
