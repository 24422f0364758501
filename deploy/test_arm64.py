"""Prove the arm64 packages without a Pi: install them in emulated file systems and compare with amd64.

For each release and runtime both packages are built from the last commit and installed with dpkg, in file systems of
that release. There `edge-stt doctor` must find nothing wrong, the demo clip must give the same text on both processors,
and the log-probabilities must agree. On amd64, which runs at full speed, the package is then installed once more over
an edited configuration, which must be kept, and purged, which must leave nothing.

The quick form (`--quick`, for CI) builds and installs the arm64 packages alone, compares them with this checkout on
this machine's processor, and asks lintian about them where it is installed.

What this does not prove: speed (emulation is a hundred times slower), maintainer scripts of Debian's own packages
(which are not run), microphones, and systemd.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import build_deb
import rootfs

COMBINATIONS = ("bookworm/ai-edge-litert", "trixie/ai-edge-litert", "bookworm/tflite-runtime")
# Mean |difference| of log-probabilities. XNNPACK's kernels for either processor agree to 1e-5; those of tflite-runtime
# round otherwise, and the quick form compares them with whichever runtime is here.
TOLERANCE = {"ai-edge-litert": 0.001, "tflite-runtime": 0.05}
AGREEMENT = 0.99  # of the best unit of each frame
PYTHON = f"/{build_deb.LIBRARY}/bin/python3"
CONFIG = "etc/edge-stt/config.toml"
# Files that change, or stay behind, whatever package comes and goes.
LEFT_BY_DEBIAN = (
    "var/lib/dpkg/",
    "var/log/",
    "var/cache/ldconfig/",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow",
    "etc/gshadow",
    "etc/.pwd.lock",
)

RECOGNISE = """
import json, sys
HEADS = "/tmp/heads.npz" if len(sys.argv) < 2 else sys.argv[1]
import numpy as np
from edge_stt.audio import read_audio
from edge_stt.features import log_mel, normalise_utterance
from edge_stt.health import DEMO_CLIP
from edge_stt.recogniser import load_model
model = load_model()
frames = log_mel(read_audio(DEMO_CLIP), model.info.front_end)
heads = model.acoustic.offline(normalise_utterance(frames, model.info.statistics, model.info.normalization))
np.savez(HEADS, **heads)
print(json.dumps(model.transcribe(DEMO_CLIP).text))
"""
COMPARE = """
import json, sys
import numpy as np
here, there = map(np.load, sys.argv[1:] or ("/tmp/heads.npz", "/tmp/other.npz"))
assert sorted(here.files) == sorted(there.files)
differences = [float(np.abs(here[k] - there[k]).mean()) for k in here.files]
agreements = [float((here[k].argmax(-1) == there[k].argmax(-1)).mean()) for k in here.files]
print(json.dumps([max(differences), min(agreements)]))
"""


class ProofError(Exception):
    """The proof failed; the text says where."""


class System:
    """An unpacked file system with the package in it."""

    def __init__(self, arch: str, suite: str, folder: Path, kind: rootfs.Kind = rootfs.SMALL) -> None:
        self.arch, self.folder = arch, folder
        folder.mkdir()
        rootfs.unpack(arch, suite, folder, kind)

    def run(self, *command: str, stdin: str = "", codes: tuple[int, ...] = (0,)) -> str:
        """Standard output of a command in it; raises `ProofError` when it fails."""
        done = subprocess.run(
            rootfs.emulated(self.folder, *command), input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode not in codes:
            lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
            raise ProofError(f"{self.arch}: {' '.join(command[:3])} ended with {done.returncode}: {lines[-1]}")
        return done.stdout

    def install(self, package: Path) -> None:
        """Install the package with dpkg."""
        shutil.copy(package, self.folder / "tmp" / "edge-stt.deb")
        self.run("dpkg", "-i", "/tmp/edge-stt.deb")

    def doctor(self) -> list[str]:
        """What `edge-stt doctor` finds; raises `ProofError` for a failure other than emulation's slowness."""
        lines = []
        for check in json.loads(self.run("edge-stt", "doctor", "--json", "--seconds", "0", codes=(0, 1))):
            slow = self.arch == "arm64" and check["detail"].startswith("slower than speech")
            if not check["ok"] and not slow:
                raise ProofError(f"{self.arch}: doctor: {check['name']}: {check['detail']}")
            lines.append(f"{check['name']}: {check['detail']}" + (" (emulated: no fault)" if slow else ""))
        return lines

    def files(self) -> set[str]:
        """All files, but those of `LEFT_BY_DEBIAN` and what Python compiles of Debian's modules when they are used."""
        paths = (str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))
        kept = {path for path in paths if not path.startswith((*LEFT_BY_DEBIAN, "proc/", "dev/", "tmp/"))}
        return {path for path in kept if "__pycache__" not in path or path.startswith(build_deb.LIBRARY)}


def try_out(system: System, package: Path) -> Iterator[str]:
    """Install the package, ask doctor, recognise the demo clip; the last line is its text."""
    started = time.monotonic()
    system.install(package)
    yield f"{system.arch}: {package.name} installed in {time.monotonic() - started:.1f} s"
    for line in system.doctor():
        yield f"{system.arch}: doctor: {line}"
    text = json.loads(system.run(PYTHON, "-I", "-", stdin=RECOGNISE))
    yield f"{system.arch}: demo clip: {text}"


def prove(combination: str, work: Path, packages: Path) -> Iterator[str]:
    """Lines that tell what was done; raises `ProofError`, or what building and unpacking raise."""
    suite, runtime = combination.split("/")
    systems, texts = {}, {}
    for arch in ("amd64", "arm64"):
        package = build_deb.build(build_deb.Target(arch, build_deb.SUITES[suite], runtime), packages)
        yield f"{arch}: {ask_lintian(package)}"
        system = systems[arch] = System(arch, suite, work / f"{suite}-{runtime}-{arch}")
        before = system.files()
        for line in try_out(system, package):
            yield line
            texts[arch] = line.removeprefix(f"{arch}: ")
        if arch == "amd64":
            before_purge = before
    if texts["arm64"] != texts["amd64"]:
        raise ProofError("the demo clip gives another text on arm64 than on amd64")
    shutil.copy(systems["arm64"].folder / "tmp/heads.npz", systems["amd64"].folder / "tmp/other.npz")
    yield judge(systems["amd64"].run(PYTHON, "-I", "-", stdin=COMPARE), runtime)
    yield remove(systems["amd64"], before_purge)


def prove_quickly(combination: str, work: Path, packages: Path) -> Iterator[str]:
    """The same of the arm64 package alone, compared with the checkout in this process's Python."""
    suite, runtime = combination.split("/")
    package = build_deb.build(build_deb.Target("arm64", build_deb.SUITES[suite], runtime), packages)
    yield f"arm64: {ask_lintian(package)}"
    system = System("arm64", suite, work / f"{suite}-{runtime}", rootfs.QUICK)
    for line in try_out(system, package):
        yield line
    heads = work / f"{suite}-{runtime}.npz"
    text = f"arm64: demo clip: {json.loads(here(RECOGNISE, heads))}"
    if line != text:
        raise ProofError(f"the demo clip gives another text on arm64 than here: {text}")
    yield judge(here(COMPARE, heads, system.folder / "tmp/heads.npz"), runtime)


def here(script: str, *arguments: Path) -> str:
    """Output of a script in this Python, with the checkout's modules; raises `ProofError` when it fails."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(rootfs.ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise ProofError(f"this Python cannot recognise: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return done.stdout


def judge(compared: str, runtime: str) -> str:
    """A line about what `COMPARE` printed; raises `ProofError` when the difference is too large."""
    difference, agreement = json.loads(compared)
    if difference > TOLERANCE[runtime] or agreement < AGREEMENT:
        raise ProofError(f"the log-probabilities differ too much: mean {difference:.2g}, agreement {agreement:.4f}")
    return f"arm64 and amd64: mean |Δ log p| {difference:.1e}, agreement of the best units {agreement:.4f}"


def ask_lintian(package: Path) -> str:
    """A line that says lintian finds nothing but what the package's overrides name; raises `ProofError`."""
    try:
        command = ["lintian", "--allow-root", "--no-cfg", "--fail-on", "error,warning", str(package)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "NOT TESTED: lintian, which is not installed"
    if done.returncode:
        raise ProofError(f"lintian: {(done.stdout.strip() or done.stderr.strip()).splitlines()[0]}")
    return "lintian finds nothing"


def remove(system: System, before: set[str]) -> str:
    """Install again over an edited configuration, and purge; raises `ProofError` when it is lost or files stay."""
    config = system.folder / CONFIG
    if config.exists():
        edited = config.read_text(encoding="utf-8") + "# edited\n"
        config.write_text(edited, encoding="utf-8")
        system.run("dpkg", "-i", "/tmp/edge-stt.deb")
        if config.read_text(encoding="utf-8") != edited:
            raise ProofError("installing again lost what was changed in the configuration")
    system.run("dpkg", "--purge", "edge-stt")
    left = sorted(system.files() - before)
    if left or "edge-stt" in (system.folder / "etc/passwd").read_text():
        raise ProofError(f"purging leaves something: {', '.join(left[:5]) or 'the user edge-stt'}")
    return f"{system.arch}: " + ("edited configuration kept; " if config.name else "") + "nothing left after purging"


def main() -> None:
    """Prove the combinations, two at a time; exit code 1 when one fails."""
    parser = argparse.ArgumentParser(prog="test-arm64", description="Prove the arm64 packages by emulation.")
    parser.add_argument("combination", nargs="*", metavar="SUITE/RUNTIME", help=", ".join(COMBINATIONS))
    parser.add_argument("--out", type=Path, default=rootfs.ROOT / "dist", help="folder for the packages (dist)")
    parser.add_argument("--quick", action="store_true", help="the arm64 packages alone, compared with this checkout")
    arguments = parser.parse_args()
    if unknown := set(arguments.combination) - set(COMBINATIONS):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(COMBINATIONS)}")
    started = time.monotonic()

    def told(combination: str) -> bool:
        try:
            for line in (prove_quickly if arguments.quick else prove)(combination, work, arguments.out):
                tell(f"{combination}: {line}")
        except (ProofError, build_deb.BuildError, rootfs.RootError, OSError, ValueError) as error:
            tell(f"{combination}: FAILED: {error}")
            return False
        return True

    def tell(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - started:5.0f} s  {line}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="edge-stt-arm64-") as name, ThreadPoolExecutor(2) as pool:
        work = Path(name)
        good = list(pool.map(told, arguments.combination or COMBINATIONS))
    tell(f"{sum(good)} of {len(good)} proved")
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
