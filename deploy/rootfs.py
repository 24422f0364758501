"""Small file systems of Debian for tests: packages unpacked and known to dpkg, few of them set up.

Setting up means running maintainer scripts, which takes minutes under emulation; that of the packages in `SET_UP` is
what Python, numpy and our own package need. Results are kept in .cache/roots of the checkout.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "roots"
PACKAGES = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "dpkg", "findutils", "grep", "gzip", "libc-bin", "sed"),
    *("tar", "xz-utils", "util-linux", "hostname", "passwd", "login", "init-system-helpers", "diffutils", "mawk"),
    *("python3", "python3-minimal", "python3-numpy", "systemd-standalone-sysusers", "libstdc++6"),
)
SET_UP = ("libblas3", "liblapack3", "libc-bin")
_making: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")
FORMAT = 3  # of the kept archives: raise it when they must be made anew


class RootError(Exception):
    """A file system cannot be made; the text says why."""


@dataclass(frozen=True)
class Kind:
    """What is in a file system: its name among the kept ones, its packages, and whether their Python is compiled."""

    name: str
    packages: tuple[str, ...]
    compiled: bool = True


SMALL = Kind("small", PACKAGES)
# Compiling costs a file system of this processor too, which pays only where Python starts many times.
QUICK = Kind("quick", PACKAGES, compiled=False)


def run(*command: str | Path, doing: str) -> None:
    """Run a command; raises `RootError` with its last line when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RootError(f"{command[0]} is not installed: apt-get install mmdebstrap qemu-user-static") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise RootError(f"{doing}: {lines[-1]}")


def emulated(root: Path, *command: str) -> list[str]:
    """The command line that runs a command in the file system, whatever its processor."""
    return [sys.executable, str(ROOT / "deploy" / "emulate.py"), str(root), *command]


def unpack(arch: str, suite: str, folder: Path, kind: Kind = SMALL) -> None:
    """Put the file system for an architecture and a suite into an empty folder."""
    archive = CACHE / f"{kind.name}-{suite}-{arch}-{FORMAT}.tar"
    with _making[archive]:
        if not archive.exists():
            _make(arch, suite, kind, archive)
    run("tar", "--extract", "--file", archive, "--directory", folder, doing="cannot unpack the file system")


def _make(arch: str, suite: str, kind: Kind, archive: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edge-stt-root-") as name:
        tree = Path(name) / "tree"
        tree.mkdir()
        run(
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=extract", "--skip=cleanup/apt", f"--arch={arch}"),
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",  # as on every Debian since 12
            *(f"--include={','.join(kind.packages)}", suite, tree),
            doing=f"cannot get Debian {suite} for {arch}",
        )
        _register(tree)
        for leftover in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(tree / leftover, ignore_errors=True)
        run(*emulated(tree, "dpkg", "--configure", "--force-depends", *SET_UP), doing="cannot set up base packages")
        if kind.compiled:
            _compile(tree, arch, suite, Path(name))
        new = archive.with_suffix(".new")
        run("tar", "--create", "--file", new, "--directory", tree, ".", doing="cannot keep the file system")
        new.replace(archive)


def _compile(tree: Path, arch: str, suite: str, work: Path) -> None:
    """Compile Debian's Python modules, as their packages' scripts would have done.

    Bytecode is the same for every processor: it is made by the Python of this one, which is a hundred times as fast.
    """
    libraries = sorted(path for path in (tree / "usr" / "lib").glob("python3*") if path.is_dir())
    native = tree
    if arch != NATIVE:
        native = work / "native"
        native.mkdir()
        unpack(NATIVE, suite, native)
    for library in libraries:
        inside = library.relative_to(tree)
        if native != tree:
            inside = Path("tmp") / library.name
            library.rename(native / inside)
        names = ("-s", f"/{inside}", "-p", f"/usr/lib/{library.name}", f"/{inside}")
        command = ("python3", "-m", "compileall", "-qq", "--invalidation-mode=unchecked-hash", *names)
        subprocess.run(emulated(native, *command), capture_output=True, check=False)  # a few are not for this Python
        if native != tree:
            (native / inside).rename(library)


def _register(tree: Path) -> None:
    """Enter the unpacked packages into dpkg's database: all as installed, `SET_UP` as still to be set up."""
    database = tree / "var" / "lib" / "dpkg"
    stanzas = [(database / "status").read_text().strip()]  # what the hook that merges /usr has installed
    for package in sorted((tree / "var/cache/apt/archives").glob("*.deb")):
        control = subprocess.run(["dpkg-deb", "-f", package], check=True, capture_output=True, text=True).stdout
        fields = dict(re.findall(r"^([\w-]+): (.*)$", control, re.MULTILINE))
        name = fields["Package"]
        status = "unpacked" if name in SET_UP else "installed"
        stanzas.append(control.replace("\n", f"\nStatus: install ok {status}\n", 1).rstrip() + "\n")
        qualified = f"{name}:{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else name
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["dpkg-deb", "-e", package, folder], check=True)
            for file in Path(folder).iterdir():
                if file.name != "control":
                    shutil.copy(file, database / "info" / f"{qualified}.{file.name}")
        listing = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
        names = subprocess.run(["tar", "-t"], input=listing, check=True, capture_output=True).stdout.decode()
        lines = ["/." if line in ("./", ".") else line.removeprefix(".").rstrip("/") for line in names.splitlines()]
        (database / "info" / f"{qualified}.list").write_text("\n".join(lines) + "\n")
    (database / "status").write_text("\n\n".join(stanza.strip() for stanza in stanzas if stanza) + "\n")
    for name in ("passwd", "group"):  # what base-passwd's script does, which wants perl
        shutil.copy(tree / "usr/share/base-passwd" / f"{name}.master", tree / "etc" / name)
