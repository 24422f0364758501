"""The Wyoming server on a booted systemd: started by its first client, killed, hung, stopped, started again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

UNIT = "edge-stt-wyoming"
DROP_IN = "[Service]\nWatchdogSec=6\n"
PYTHON = "/usr/lib/edge-stt/bin/python3"
CLIENT = """
import json, socket, sys
from edge_stt.audio import read_audio
pcm = (read_audio(sys.stdin.buffer) * 32767).astype("<i2").tobytes()
with socket.create_connection(("127.0.0.1", 10300), 60) as sock, sock.makefile("rwb") as stream:
    audio = {"rate": 16000, "width": 2, "channels": 1}
    for kind, payload in (("audio-start", b""), ("audio-chunk", pcm), ("audio-stop", b"")):
        header = {"type": kind, "data": audio, "payload_length": len(payload)}
        stream.write(json.dumps(header).encode() + b"\\n" + payload)
    stream.flush()
    for line in stream:
        message = json.loads(line)
        data = stream.read(message.get("data_length", 0))
        if message["type"] == "transcript":
            print(json.loads(data)["text"])
            break
"""


class Machine(Protocol):
    """A booted container."""

    leader: int

    def shell(self, *command: str, check: bool = True) -> str:
        """Run a command inside."""
        ...


Wait = Callable[[str, Callable[[], bool]], None]


def live(machine: Machine, wait: Wait, speech: Path, text: str) -> None:
    """The server's life. ``wait`` polls a condition, and raises when it does not come."""

    def state(**wanted: str) -> bool:
        shown = machine.shell("systemctl", "show", UNIT, "-p", ",".join(wanted))
        return dict(line.split("=", 1) for line in shown.splitlines()) == wanted

    def send(signal: str) -> None:
        machine.shell("systemctl", "kill", "--kill-whom=main", "-s", signal, f"{UNIT}.service")

    def answered() -> bool:
        command = ["nsenter", "-t", str(machine.leader), "-a", PYTHON, "-Ic", CLIENT]
        done = subprocess.run(command, input=speech.read_bytes(), capture_output=True, check=False, timeout=120)
        return done.stdout.decode().strip() == text

    machine.shell("systemctl", "enable", "--now", f"{UNIT}.socket")
    wait("Wyoming: only the socket is open", lambda: state(ActiveState="inactive"))
    wait("Wyoming: the first client starts the server and gets its text", answered)
    wait("Wyoming: ready", lambda: state(ActiveState="active", SubState="running", NRestarts="0"))
    send("KILL")
    wait("Wyoming: killed and restarted", lambda: state(ActiveState="active", SubState="running", NRestarts="1"))
    send("STOP")
    wait("Wyoming: hung and restarted", lambda: state(ActiveState="active", SubState="running", NRestarts="2"))
    wait("Wyoming: clients get their text again", answered)
    machine.shell("systemctl", "stop", f"{UNIT}.service")
    wait("Wyoming: stopped", lambda: state(ActiveState="inactive", Result="success", ExecMainStatus="0"))
    wait("Wyoming: the next client starts it again", answered)
    machine.shell("systemctl", "stop", f"{UNIT}.socket", f"{UNIT}.service")
