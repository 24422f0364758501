"""The installed service on a real systemd: readiness, speech, kill, hang, sandbox, reload, stop.

A bookworm of its own is made once (.cache/roots), the package is installed into a copy, and the copy boots in
systemd-nspawn. Its microphone is the null sink of a PulseAudio server outside. Each check prints a line; the first that
fails ends with 1 and the service's journal. Where a container cannot be at all, ``--can`` says why.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boot_wyoming
import build_deb
from rootfs import NATIVE

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "roots" / "bookworm-boot.tar"
INCLUDE = (
    *("systemd", "systemd-sysv", "dbus", "python3", "python3-numpy", "python3-pyaudio", "libasound2-plugins"),
    *("libsndfile1", "libstdc++6", "init-system-helpers"),
)
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"  # as on every Debian since 12
PROGRAMS = ("systemd-nspawn", "nsenter", "mmdebstrap", "dpkg-deb", "pulseaudio", "pactl", "paplay", "parec")
SPEECH = ROOT / "tests" / "data" / "LJ001-0002.opus"
TEXT = "in being comparatively modern"
HEARD = "being comparatively modern"  # by the microphone: the sink, which wakes, may lose the first word
CANNOT = 3  # exit code of --can, which no error has
PLAYS = 4  # of the sentence, before it counts as not heard
SOCKET = "/run/edge-stt-pulse/native"
OPTIONS = ("--register=no", "--keep-unit", "--private-network", "--resolv-conf=off", "--timezone=off")

CONFIG = """
[output]
socket = "/run/edge-stt/events"
[exec]
command = ["/usr/local/bin/on-speech"]
[metrics]
socket = "/run/edge-stt/metrics"
"""
ON_SPEECH = '#!/bin/sh\necho "heard: $EDGE_STT_TEXT"\n'
# What the sandbox must refuse; run before the daemon, with all its limits, by a name of its own for each attempt.
ATTEMPTS = """#!/usr/bin/python3
import ctypes, mmap, os, socket, sys
def attempt(name, action):
    try:
        action()
        print(name, flush=True, file=open("/run/edge-stt/allowed", "a"))
    except Exception:
        print(name, flush=True, file=open("/run/edge-stt/refused", "a"))
attempt("write /etc", lambda: open("/etc/edge-stt/x", "w"))
attempt("write /usr", lambda: open("/usr/x", "w"))
attempt("read /root", lambda: os.listdir("/root"))
attempt("read /home/private", lambda: open("/home/private"))
attempt("network", lambda: socket.socket(socket.AF_INET))
attempt("raw socket", lambda: socket.socket(socket.AF_PACKET))
attempt("kernel memory", lambda: open("/dev/kmsg"))
attempt("executable memory", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC))
attempt("another user", lambda: os.setuid(0))
attempt("write /run/edge-stt", lambda: open("/run/edge-stt/x", "w"))
attempt("write /var/lib/edge-stt", lambda: open("/var/lib/edge-stt/x", "w"))
"""
ALLOWED = {"write /run/edge-stt", "write /var/lib/edge-stt"}
DROP_IN = f"""
[Service]
WatchdogSec=4
Environment=PULSE_SERVER=unix:{SOCKET} ALSA_CONFIG_PATH=/etc/asound-test.conf
ExecStartPre=/usr/local/bin/attempts
"""


class BootError(Exception):
    """A check failed; the text says which and why."""


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run(*command: str | Path, timeout: float = 600.0) -> str:
    """Standard output of a command; raises `BootError` when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    except FileNotFoundError as error:
        raise BootError(f"{command[0]} is not installed (see test-boot)") from error
    if done.returncode:
        raise BootError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def make_root(tree: Path, package: Path) -> None:
    """A bookworm with the package and its settings."""
    if not CACHE.exists():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edge-stt-boot-") as name:
            fresh = Path(name) / "tree"
            quick = ("--quiet", "--mode=root", "--dpkgopt=force-unsafe-io", f"--hook-dir={MERGED_USR}")
            run("mmdebstrap", "--variant=minbase", *quick, f"--include={','.join(INCLUDE)}", "bookworm", fresh)
            new = CACHE.with_suffix(".new")
            run("tar", "--create", "--file", new, "--directory", fresh, ".")
            new.replace(CACHE)
    run("tar", "--extract", "--file", CACHE, "--directory", tree)
    shutil.copy(package, tree / "package.deb")
    run("chroot", tree, "dpkg", "--install", "/package.deb")
    write(tree / "etc/edge-stt/config.toml", CONFIG)
    write(tree / "usr/local/bin/on-speech", ON_SPEECH, 0o755)
    write(tree / "usr/local/bin/attempts", ATTEMPTS, 0o755)
    write(tree / "home/private", "")
    alsa = "</usr/share/alsa/alsa.conf>\npcm.!default { type pulse }\nctl.!default { type pulse }\n"
    write(tree / "etc/asound-test.conf", alsa)
    write(tree / "etc/systemd/system/edge-stt.service.d/test.conf", DROP_IN)
    write(tree / "etc/systemd/system/edge-stt-wyoming.service.d/test.conf", boot_wyoming.DROP_IN)
    (tree / "etc/machine-id").unlink(missing_ok=True)


def write(path: Path, content: str, mode: int = 0o644) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)


class Machine:
    """A booted container."""

    def __init__(self, tree: Path, pulse: Path) -> None:
        self.process = subprocess.Popen(
            [
                "systemd-nspawn",
                "-q",
                "-D",
                tree,
                *OPTIONS,
                "--console=pipe",
                f"--bind={pulse}:/run/edge-stt-pulse",
                "-b",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.leader = 0

    def boot(self) -> None:
        """Wait for systemd."""

        def up() -> bool:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            self.leader = int((children.read_text().split() or ["0"])[0])
            return bool(self.leader) and self.shell("systemctl", "is-system-running", check=False).strip() in (
                "running",
                "degraded",
            )

        wait("the container boots", up, 60)

    def shell(self, *command: str, check: bool = True) -> str:
        """Run a command inside."""
        whole = ["nsenter", "-t", str(self.leader), "-a", *command]
        if check:
            return run(*whole)
        return subprocess.run(whole, capture_output=True, text=True, check=False).stdout

    def show(self, *properties: str) -> dict[str, str]:
        """Properties of the service."""
        shown = self.shell("systemctl", "show", "edge-stt", "-p", ",".join(properties))
        return dict(line.split("=", 1) for line in shown.splitlines())

    def journal(self) -> str:
        """What the service said."""
        return self.shell("journalctl", "-u", "edge-stt*", "--no-pager", "-o", "cat", check=False)

    def end(self) -> None:
        """Power off, whatever it does."""
        with suppress(OSError):
            if self.leader:
                os.kill(self.leader, signal.SIGKILL)
        self.process.terminate()
        self.process.wait()


def wait(what: str, condition: Callable[[], bool], timeout: float = 60.0) -> None:
    """Poll a condition and print that it came; raises `BootError` when it does not."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout:
            raise BootError(f"{what}: not within {timeout:g} s")
        time.sleep(0.1)
    say(f"ok  {what} ({time.monotonic() - began:.1f} s)")


@contextmanager
def sound_server(folder: Path) -> Iterator[Callable[[Path], None]]:
    """A PulseAudio server for the container; gives what plays a file into its null sink."""
    folder.chmod(0o755)
    script = folder / "default.pa"
    script.write_text(
        f"load-module module-native-protocol-unix auth-anonymous=1 socket={folder}/native\n"
        "load-module module-null-sink sink_name=mic rate=16000 channels=1 format=s16le\n"
        "set-default-source mic.monitor\n"
    )
    env = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    env.pop("PULSE_SERVER", None)
    command = ["pulseaudio", "-n", "-F", str(script), "--daemonize=no", "--exit-idle-time=-1", "--realtime=no"]
    server = subprocess.Popen([*command, "--high-priority=no"], env=env, stderr=subprocess.DEVNULL)
    client = {**env, "PULSE_SERVER": f"unix:{folder}/native"}
    parts = [server]

    def play(path: Path) -> None:
        subprocess.run(["paplay", "--device=mic", str(path)], env=client, check=True)

    try:
        for _ in range(100):
            if subprocess.run(["pactl", "info"], env=client, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        keep = ["parec", "-d", "mic.monitor", "--latency-msec=20", "--raw"]
        parts.append(subprocess.Popen(keep, env=client, stdout=subprocess.DEVNULL))
        yield play
    finally:
        for process in reversed(parts):
            process.kill()
            process.wait()


def live(machine: Machine, play: Callable[[Path], None]) -> None:
    """A service's life."""

    def state(**wanted: str) -> bool:
        return machine.show(*wanted) == wanted

    def listening() -> bool:
        return machine.show("StatusText")["StatusText"].startswith("listening to")

    machine.shell("systemctl", "start", "edge-stt")  # returns when READY was said
    wait("started and ready", lambda: state(ActiveState="active", SubState="running"))
    wait("the microphone is open", listening)
    for kind, expected in (("allowed", ALLOWED), ("refused", None)):
        seen = set(machine.shell("cat", f"/run/edge-stt/{kind}", check=False).splitlines())
        if (expected is not None and seen != expected) or not seen:
            raise BootError(f"the sandbox {kind}: {sorted(seen)}, not {sorted(expected or [])}")
    say(f"ok  the sandbox refuses {', '.join(sorted(seen))}")

    reader = subprocess.Popen(
        ["nsenter", "-t", str(machine.leader), "-a", "python3", "-c", READ_SOCKET], stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    reader.stdout.readline()  # it is connected
    for _ in range(PLAYS):  # on a busy machine sound drops out of the server
        play(SPEECH)
        with suppress(BootError):
            wait("speech runs the command", lambda: HEARD in machine.journal(), 15)
            break
    else:
        raise BootError(f"played {PLAYS} times, {HEARD!r} was not heard")
    event = next(event for event in map(json.loads, reader.stdout) if event["text"].endswith(HEARD))
    reader.kill()
    say(f"ok  the socket gives the final; {event['compute'] * 1000:.0f} ms of work")
    status = Path(f"/proc/{host_pid(machine)}/status").read_text(encoding="ascii")
    say(f"ok  {int(status.split('VmRSS:')[1].split()[0]) / 1024:.0f} MiB resident")

    machine.shell("systemctl", "reload", "edge-stt")
    wait("reloaded", lambda: "settings read again" in machine.journal())
    if "lost the microphone" in machine.journal():
        raise BootError("reloading lost the microphone")
    main = machine.show("MainPID")["MainPID"]
    machine.shell("sh", "-c", f"kill -9 {main}")
    wait("killed and restarted", lambda: state(NRestarts="1", ActiveState="active", SubState="running"))
    wait("the microphone is open again", listening)
    machine.shell("sh", "-c", f"kill -STOP {machine.show('MainPID')['MainPID']}")
    wait("hung and restarted by the watchdog", lambda: state(NRestarts="2", ActiveState="active", SubState="running"))
    if "Watchdog timeout" not in machine.shell("journalctl", "-u", "edge-stt", "--no-pager"):
        raise BootError("it was not the watchdog that restarted it")
    wait("the microphone is open again", listening)
    machine.shell("systemctl", "stop", "edge-stt")
    wait("stopped with success", lambda: state(ActiveState="inactive", Result="success", ExecMainStatus="0"))

    machine.shell("sh", "-c", "echo '[output]\nsoket = 1' > /etc/edge-stt/config.toml")
    machine.shell("systemctl", "start", "edge-stt", check=False)
    wait("wrong settings fail once", lambda: state(ActiveState="failed", ExecMainStatus="2"))
    if "did you mean 'output.socket'" not in machine.journal():
        raise BootError("the journal does not say what is wrong")


def host_pid(machine: Machine) -> int:
    """The daemon's process as it is known outside."""
    inside = machine.show("MainPID")["MainPID"]
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            text = status.read_text(encoding="ascii", errors="replace")
            if f"\t{inside}\n" in text.split("NSpid:")[1] and "NSpid:\t" + status.parent.name + "\t" in text:
                return int(status.parent.name)
    raise BootError("the daemon's process cannot be found")


READ_SOCKET = """
import json, socket
client = socket.socket(socket.AF_UNIX)
client.connect("/run/edge-stt/events")
print(flush=True)
for line in client.makefile():
    if json.loads(line)["event"] == "final":
        print(line, end="", flush=True)
"""


def obstacle() -> str:
    """Why no container can boot on this machine, before anything of edge-stt is tried; empty where one can."""
    if os.getuid():
        return "it needs root"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} not installed (see test-boot)"
    if platform.machine() not in build_deb.MACHINES.values():
        return f"there is no package for {platform.machine()}"
    # A container with this machine's own files and one command in it: whether namespaces and mounts are allowed.
    command = ["systemd-nspawn", "-q", "-D", "/", "--volatile=yes", *OPTIONS, "--pipe", "true"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
        )
    except subprocess.TimeoutExpired:
        return "systemd-nspawn does not end"
    said = done.stderr.strip().splitlines() or ["it says nothing"]
    return f"systemd-nspawn: {said[-1]}" if done.returncode else ""


def main() -> int:
    """Do it all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="test-boot", description="Boot the package with systemd, in a container.")
    parser.add_argument("package", nargs="?", type=Path, help="for bookworm; without it, built from the last commit")
    parser.add_argument("--can", action="store_true", help="only tell whether a container can boot here, and why not")
    arguments = parser.parse_args()
    if arguments.can:
        if reason := obstacle():
            say(reason)
        return CANNOT if reason else 0
    with tempfile.TemporaryDirectory(prefix="edge-stt-boot-") as name:
        tree, pulse = Path(name) / "tree", Path(name) / "pulse"
        tree.mkdir(mode=0o755)
        pulse.mkdir()
        Path(name).chmod(0o755)
        machine = None
        try:
            package = arguments.package
            if package is None:
                target = build_deb.Target(NATIVE, build_deb.SUITES["bookworm"], build_deb.RUNTIMES[0])
                package = build_deb.build(target, Path(name) / "dist")
            make_root(tree, package.resolve())
            with sound_server(pulse) as play:
                machine = Machine(tree, pulse)
                machine.boot()
                live(machine, play)
                boot_wyoming.live(machine, wait, SPEECH, TEXT)
        except (BootError, build_deb.BuildError) as error:
            sys.stderr.write(f"test-boot: {error}\n")
            if machine is not None and machine.leader:
                sys.stderr.write(machine.journal())
            return 1
        finally:
            if machine is not None:
                machine.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
