"""A whole emulated Raspberry Pi 4 processor with systemd: the package, its service and its limits, and the Pi's page.

The package is installed with dpkg and its service started, which is timed; the service must have its memory limit, and
recognise within it. Then docs/raspberry-pi.md is followed line by line: what is said there to be done on the Pi is done
in the machine, by a user with sudo, and what is to be done on a workstation is done here.

Emulation says nothing about speed. What Debian's own packages do when they are set up was not done, but for what Python
needs; there is no sound, no network but this machine, and no boot loader or firmware of a Raspberry Pi.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import build_deb
import rootfs
import vm

PAGE = rootfs.ROOT / "docs" / "raspberry-pi.md"
DEMO = rootfs.ROOT / "edge_stt" / "data" / "demo.opus"
LIMITS = {"MemoryMax": 320 << 20, "MemoryHigh": 256 << 20}
IN_LIMITS = "systemd-run --quiet --wait --pipe --property=MemoryHigh=256M --property=MemoryMax=320M"
# Lines of the page that are not followed, by their beginning, and why.
LEFT_OUT = {
    "sudo apt-get install pipx": "no package archive is within reach of the machine",
    "pipx ": "the same",
    "podman ": "no image registry is within reach of the machine",
    "sudo apt-get install python3-venv": "for 32-bit systems",
    "python3 -m venv --system-site-packages edge-stt": "the same",
    "edge-stt/bin/pip ": "the same",
}
HERE = ("deploy/", "edge-stt deploy ")
MAKE_MODELS = """
import sys
from dataclasses import replace
from pathlib import Path
from edge_stt.package import ModelPackage, write_package
from edge_stt.recogniser import DEFAULT_MODEL
package = ModelPackage.load(DEFAULT_MODEL)
files = {name: package.read(name) for name in package.files}
for path, name in (("my-model.zip", "edge-stt-en-mine"), ("signed.zip", "signed"), ("my-old.zip", "my-old")):
    write_package(Path(sys.argv[1]) / path, replace(package.info, name=name), files)
"""


def tell(text: str) -> None:
    """A line, at once, with the time since the start."""
    sys.stdout.write(f"{time.monotonic() - STARTED:5.0f} s  {text}\n")
    sys.stdout.flush()


def expect(what: str, good: bool, seen: object = "") -> None:
    """Print that it is so; raises `vm.MachineError` when it is not."""
    if not good:
        raise vm.MachineError(f"{what}: no: {seen}")
    tell(f"ok  {what}" + (f": {seen}" if seen != "" else ""))


def here(*command: str | Path, cwd: Path = rootfs.ROOT, expected: str = "") -> str:
    """Standard output of this checkout's command line, or of a program, which must succeed or say what is expected."""
    words = [sys.executable, "-m", "edge_stt.cli", *command[1:]] if command[0] == "edge-stt" else [*command]
    environment = {**os.environ, "PYTHONPATH": str(rootfs.ROOT), "PYTHON": sys.executable}
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    if done.returncode and (not expected or expected not in done.stdout):
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise vm.MachineError(f"{shlex.join(map(str, command))}: {last}")
    return done.stdout


def timed(machine: vm.Machine, script: str) -> float:
    """Seconds a script takes there, by this machine's clock, ssh's part taken off."""
    marks = machine.run(f"date +%s.%N; {{ {script}; }} >/dev/null 2>&1 || exit 1; date +%s.%N").split()
    return float(marks[1]) - float(marks[0])


def time_to_ready(machine: vm.Machine) -> None:
    """From ``dpkg -i`` to READY, and how much slower than here the machine does such things."""
    install = timed(machine, "dpkg -i /root/edge-stt.deb")
    start = timed(machine, "systemctl enable --now edge-stt")  # returns at READY
    check = f"{build_deb.LIBRARY}/bin/python3 -Im edge_stt.cli listen --check-config"
    there = timed(machine, f"/{check}")
    began = time.monotonic()
    here("edge-stt", "listen", "--check-config")
    slower = there / (time.monotonic() - began)
    tell(f"    dpkg -i {install:.1f} s, then {start:.1f} s to READY: {install + start:.1f} s as emulated")
    tell(f"    (loading settings and model takes {slower:.0f} times as long there as here)")


def live(machine: vm.Machine) -> None:
    """The service's state, limits, and recognition within them."""
    wanted = ["ActiveState", "SubState", "NRestarts", *LIMITS]
    shown = machine.run(f"systemctl show edge-stt -p {','.join(wanted)}")
    state = dict(line.split("=", 1) for line in shown.splitlines())
    running = (state["ActiveState"], state["SubState"], state["NRestarts"]) == ("active", "running", "0")
    expect("the service is ready and was never restarted", running, state["SubState"])
    group = "/sys/fs/cgroup/system.slice/edge-stt.service"
    limits = {name: int(machine.run(f"cat {group}/memory.{name[6:].lower()}")) for name in LIMITS}
    expect("the kernel has its memory limits", limits == LIMITS, f"{limits['MemoryMax'] >> 20} MiB at most")
    peak = int(machine.run(f"cat {group}/memory.peak"))
    expect("it keeps within them", peak < LIMITS["MemoryHigh"], f"peak {peak / 2**20:.0f} MiB")
    for size, fits in ((100, True), (400, False)):
        limit = f"--property=MemoryMax={LIMITS['MemoryMax']} --property=MemorySwapMax=0"
        take = f"systemd-run --quiet --wait --pipe {limit} python3 -c 'b\"x\" * ({size} << 20)'; echo $?"
        ended = machine.run(take).strip()
        expect(f"{size} MiB {'are given' if fits else 'are refused'}", (ended == "0") == fits, f"exit code {ended}")

    text = here("edge-stt", "transcribe", DEMO).strip()
    machine.send(DEMO, "/root/demo.opus")
    heard = machine.run(f"{IN_LIMITS} edge-stt transcribe /root/demo.opus").strip()
    expect("within these limits the demo clip gives the same text as here", heard == text, heard)
    doctor = json.loads(machine.run("edge-stt doctor --json --seconds 0", codes=(0, 1)))
    bad = [f"{check['name']}: {check['detail']}" for check in doctor if not check["ok"]]
    expect("doctor finds nothing wrong", not [line for line in bad if "slower than speech" not in line], bad)
    tell(f"    {next(check['name'] + ': ' + check['detail'] for check in doctor if check['name'] == 'golden pair')}")


def purge(machine: vm.Machine) -> None:
    """Nothing is left."""
    machine.run("DEBIAN_FRONTEND=noninteractive apt-get purge -y edge-stt")
    paths = "/etc/edge-stt /usr/lib/edge-stt /var/lib/edge-stt /usr/bin/edge-stt /etc/systemd/system/*.wants/edge-stt*"
    left = machine.run(
        f"ls -d {paths} 2>/dev/null; getent passwd edge-stt; pgrep -u edge-stt 2>/dev/null; true"
    ).split()
    expect("purging leaves nothing", not left, " ".join(left))


def lines_of(page: Path) -> list[str]:
    """Commands of the page's sh blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for raw in "".join(blocks).splitlines() if (line := re.sub(r"\s+#.*$", "", raw).strip())]


def follow(machine: vm.Machine, package: Path, work: Path) -> None:
    """The page, line by line."""
    here(sys.executable, "-c", MAKE_MODELS, work)
    name = next(word for line in lines_of(PAGE) for word in line.split() if word.startswith("./edge-stt_"))
    machine.send(package, f"/home/{vm.USER}/{name}", vm.USER)
    for zipped in ("my-model.zip", "signed.zip", "my-old.zip"):
        machine.send(work / zipped, f"/home/{vm.USER}/{zipped}", vm.USER)
    machine.run("python3 -m zipfile -e signed.zip my-model", user=vm.USER)
    (work / "dist").symlink_to(package.parent)
    for line in lines_of(PAGE):
        reason = next((why for start, why in LEFT_OUT.items() if line.startswith(start)), "")
        if reason or line.startswith("deploy/"):
            tell(f"--  {line}   (not followed: {reason or 'on the workstation, and tested there'})")
            continue
        began = time.monotonic()
        last = _here(machine, line, work) if line.startswith(HERE) else _there(machine, line)
        tell(f"ok  {line}   ({time.monotonic() - began:.1f} s) {last}")
    state = machine.run("systemctl show edge-stt -p ActiveState,NRestarts --value").split()
    expect(
        "after all this the service runs and was not restarted by a failure", sorted(state) == ["0", "active"], state
    )
    key = f"--public-key /home/{vm.USER}/edge-stt.pub --require-signature"
    machine.run(f"edge-stt model install /home/{vm.USER}/my-old.zip {key} 2>&1 | grep 'is not signed'")
    tell("ok  a model that is not signed is refused where a signature is asked for")


def _there(machine: vm.Machine, line: str) -> str:
    """A line in the machine, as its user; what nobody is there to answer is given as an option."""
    line = line.replace("apt-get install", "apt-get install -y").replace("minisign -G", "minisign -G -W")
    if line == "edge-stt model remove my-old":
        machine.run("edge-stt model install --no-use my-old.zip", user=vm.USER)
    said = machine.run(line, user=vm.USER, codes=(0, 1) if line == "edge-stt doctor" else (0,)).strip()
    return (said.splitlines() or [""])[-1].strip()


def _here(machine: vm.Machine, line: str, work: Path) -> str:
    """A line on the workstation; ssh's options are those that lead to the machine."""
    words = shlex.split(line)
    if "--ssh-options" in words:
        at = words.index("--ssh-options")
        words[at : at + 2] = []
    if "--deb" not in words:
        words += ["--deb", "dist"]  # else it builds the same one again
    said = here(*words, "--ssh-options", shlex.join(machine.options[:2]), cwd=work, expected="ok   golden pair")
    return next(text for text in said.splitlines() if text.startswith("ok   golden pair"))


def main() -> int:
    """Build the package, boot, do it all; the exit code."""
    parser = argparse.ArgumentParser(prog="test-vm", description="Boot an emulated Pi and follow its page in it.")
    parser.add_argument("--deb", type=Path, help="arm64 package for bookworm; without it, built from the last commit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-stt-vm-") as name:
        folder, work = Path(name) / "machine", Path(name) / "work"
        folder.mkdir()
        work.mkdir()
        try:
            target = build_deb.Target("arm64", build_deb.SUITES["bookworm"], "ai-edge-litert")
            package = arguments.deb or build_deb.build(target, Path(name) / "dist")
            with vm.booted(folder) as machine:
                took = machine.run("systemctl is-system-running --wait; systemd-analyze").splitlines()
                expect("the machine boots", took[0] == "running", took[1])
                machine.send(package.resolve(), "/root/edge-stt.deb")
                time_to_ready(machine)
                live(machine)
                purge(machine)
                follow(machine, package.resolve(), work)
        except (vm.MachineError, build_deb.BuildError, rootfs.RootError, OSError, subprocess.TimeoutExpired) as error:
            sys.stderr.write(f"test-vm: {error}\n")
            return 1
    tell("all is well")
    return 0


STARTED = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
