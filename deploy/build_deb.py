"""Build edge-stt's Debian package for another machine, without running anything of it. `build-deb --help` says how.

The package is a virtual environment in /usr/lib/edge-stt: its Python is Debian's, its wheels (wheels.txt, by hash) are
ours, and numpy and PyAudio are Debian's, which are smaller than wheels and which other programs use too. It is made of
the last commit, and dated by it: the same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "usr/lib/edge-stt"
GIT = ("git", "-c", f"safe.directory={ROOT}")  # root builds from other people's checkouts
MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}
RUNTIMES = ("ai-edge-litert", "tflite-runtime")
MANYLINUX = ("2_34", "2_28", "2_27", "2_26", "2_17", "2014")  # both suites have glibc 2.36 or newer
SOURCES = ("edge_stt", "deploy", "systemd", "LICENSE")  # what of the commit is needed here
_making = threading.Lock()  # of an environment: two packages may be built at once

# Wheel → what of it stays; the rest is never imported on a device. ai-edge-litert's GPU, compiler and ahead-of-time
# parts are 24 of its 42 MB; soundfile needs cffi's compiled half alone; rich needs pygments only to print source code.
KEEP = {
    "ai-edge-litert": (
        "ai_edge_litert/__init__.py",
        "ai_edge_litert/interpreter.py",
        "ai_edge_litert/metrics_*.py",
        "ai_edge_litert/_pywrap_litert_interpreter_wrapper.so",
        "ai_edge_litert/libpywrap_litert_common.so",
    ),
    "tflite-runtime": ("tflite_runtime/*",),
    "soundfile": ("*soundfile.py", "_soundfile_data/*"),
    "cffi": ("_cffi_backend*.so",),
    "soxr": ("soxr/*.py", "soxr/*.so"),
    "typer": ("typer/*.py", "typer/_click/*.py"),
    "shellingham": ("shellingham/**/*.py",),
    "annotated-doc": ("annotated_doc/*.py",),
    "typing-extensions": ("typing_extensions.py",),
    "rich": ("rich/**/*.py",),
}
OF_A_WHEEL = ("*.dist-info/METADATA", "*.dist-info/LICEN[CS]E*", "*.dist-info/licenses/**/*")


class BuildError(Exception):
    """The package cannot be built; the text says why."""


@dataclass(frozen=True)
class Suite:
    """A Debian release: its Python, and the number in its name."""

    name: str
    python: str
    number: int


SUITES = {suite.name: suite for suite in (Suite("bookworm", "3.11", 12), Suite("trixie", "3.13", 13))}


@dataclass(frozen=True)
class Target:
    """What is built: architecture in Debian's name, suite, TFLite runtime."""

    arch: str
    suite: Suite
    runtime: str

    @property
    def wheels(self) -> tuple[str, ...]:
        """The wheels inside."""
        return tuple(name for name in KEEP if name not in RUNTIMES or name == self.runtime)

    def version(self, commit: Commit, source: Path) -> str:
        """``0.1.0+git20260131.142501.1a2b3c4~deb12``, ``+tflite`` for the small runtime; later commits are newer."""
        text = (source / "edge_stt" / "__init__.py").read_text(encoding="utf-8")
        upstream = text.split('__version__ = "')[1].split('"')[0]
        small = "+tflite" if self.runtime == "tflite-runtime" else ""
        return f"{upstream}+git{commit.date:%Y%m%d.%H%M%S}.{commit.sha}~deb{self.suite.number}{small}"


@dataclass(frozen=True)
class Commit:
    """A commit's short hash and date."""

    sha: str
    date: datetime


def run(*command: str | Path, **environment: str) -> bytes:
    """Output of a command; raises `BuildError` with its last words when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment}, cwd=ROOT)
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not installed") from error
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise BuildError(f"{' '.join(map(str, command[:4]))} …: {words[-1]}")
    return done.stdout


def say(text: str) -> None:
    """A line for the person who waits."""
    sys.stderr.write(f"build-deb: {text}\n")


def last_commit() -> Commit:
    """HEAD of the checkout this file is in."""
    sha, seconds = run(*GIT, "log", "-1", "--format=%h %ct", "--abbrev=7").decode().split()
    return Commit(sha, datetime.fromtimestamp(int(seconds), UTC))


def unpack_sources(folder: Path) -> None:
    """What HEAD has of `SOURCES`."""
    known = run(*GIT, "ls-tree", "--name-only", "HEAD").decode().split()
    archive = run(*GIT, "archive", "HEAD", *(name for name in SOURCES if name in known))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    if run(*GIT, "status", "--porcelain", "--", *SOURCES).strip():
        say("the package is of the last commit; what is not committed is not in it")


def unpack_wheels(target: Target, packages: Path, work: Path) -> None:
    """The wheels for the target, less what no device needs."""
    lines = (ROOT / "deploy" / "wheels.txt").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    wanted = [line for line in lines if line.split("==")[0] in target.wheels]
    (work / "wanted.txt").write_text("\n".join(wanted), encoding="utf-8")
    everything = work / "wheels"
    machine, python = MACHINES[target.arch], target.suite.python
    platforms = [f"--platform=manylinux{'' if tag == '2014' else '_'}{tag}_{machine}" for tag in MANYLINUX]
    pip: list[str] = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"),
        *("--no-deps", "--no-compile", "--only-binary=:all:", "--require-hashes", f"--target={everything}", *platforms),
        *("--implementation=cp", f"--python-version={python}", f"--abi=cp{python.replace('.', '')}", "--abi=abi3"),
        *("--abi=none", "-r", str(work / "wanted.txt")),
    ]
    run(*pip)
    for name in target.wheels:
        for pattern in KEEP[name]:
            found = [path for path in everything.glob(pattern) if path.is_file()]
            if not found:
                raise BuildError(f"the wheel of {name} has no {pattern}: look at KEEP in build_deb.py")
            for path in found:
                _copy(path, packages / path.relative_to(everything))
    for pattern in OF_A_WHEEL:
        for path in everything.glob(pattern):
            if path.is_file():
                _copy(path, packages / path.relative_to(everything))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def lay_out(target: Target, source: Path, tree: Path, work: Path) -> None:
    """The files of the package below ``tree``."""
    library, python = tree / LIBRARY, target.suite.python
    packages = library / "lib" / f"python{python}" / "site-packages"
    unpack_wheels(target, packages, work)
    shutil.copytree(source / "edge_stt", packages / "edge_stt")
    (library / "bin").mkdir()
    (library / "bin" / "python3").symlink_to(f"../../../bin/python{python}")
    # Not Debian's packages by a switch of pyvenv.cfg: that would let in what users installed for themselves too.
    (library / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n")
    (packages / "debian.pth").write_text("/usr/lib/python3/dist-packages\n")
    launcher = tree / "usr" / "bin" / "edge-stt"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(f'#!/bin/sh\nexec /{LIBRARY}/bin/python3 -Im edge_stt "$@"\n')
    launcher.chmod(0o755)
    _copy(source / "deploy" / "debian" / "lintian-overrides", tree / "usr/share/lintian/overrides/edge-stt")
    place_units(source / "systemd", tree)


def place_units(folder: Path, tree: Path) -> None:
    """Units of the system and of users, the service's user, and drop-ins as examples."""
    for unit in sorted([*folder.glob("*.service"), *folder.glob("*.socket")]):
        scope = "user" if "-user" in unit.stem else "system"
        _copy(unit, tree / f"usr/lib/systemd/{scope}" / unit.name)
    for drop_in in folder.glob("*.conf"):
        _copy(drop_in, tree / "usr/share/doc/edge-stt/examples" / drop_in.name)
    _copy(folder / "edge-stt.sysusers", tree / "usr/lib/sysusers.d/edge-stt.conf")


def find_python() -> str:
    """A Python that can run the commit's command line, to ask it for its options; made if there is none."""
    environments = [ROOT / name / "bin" / "python" for name in (".venv-test", ".venv-demo", ".venv-deb")]
    with _making:
        for candidate in map(str, [sys.executable, *environments]):
            command = [candidate, "-c", "import numpy, rich, soundfile, soxr, typer"]
            if shutil.which(candidate) and not subprocess.run(command, capture_output=True, check=False).returncode:
                return candidate
        run(ROOT / "deploy" / "make-venv", ROOT / ".venv-deb", ROOT, PYTHON=sys.executable)
    return str(environments[-1])


def write_documents(target: Target, source: Path, tree: Path, work: Path, commit: Commit, version: str) -> None:
    """What the command line tells of itself (configuration, manual page, completions), changelog, copyright."""
    epoch = str(int(commit.date.timestamp()))
    pages = work / "pages"
    pages.mkdir()
    python = find_python()
    run(python, "-P", source / "deploy" / "shell_pages.py", pages, PYTHONPATH=str(source), SOURCE_DATE_EPOCH=epoch)
    settings = tree / "etc" / "edge-stt" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_bytes(run(python, "-Pm", "edge_stt.cli", "listen", "--print-config", PYTHONPATH=str(source)))
    share = tree / "usr" / "share"
    _copy(pages / "edge-stt.bash", share / "bash-completion/completions/edge-stt")
    _copy(pages / "edge-stt.zsh", share / "zsh/vendor-completions/_edge-stt")
    changelog = (
        f"edge-stt ({version}) {target.suite.name}; urgency=medium\n\n  * Built from commit {commit.sha}.\n\n"
        f" -- {maintainer()}  {commit.date:%a, %d %b %Y %H:%M:%S} +0000\n"
    )
    _write_gzip(share / "man/man1/edge-stt.1.gz", (pages / "edge-stt.1").read_bytes())
    _write_gzip(share / "doc/edge-stt/changelog.gz", changelog.encode())
    _copy(source / "deploy" / "debian" / "copyright", share / "doc/edge-stt/copyright")


def _write_gzip(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def maintainer() -> str:
    """Whom the package names: DEBFULLNAME and DEBEMAIL, as Debian's own tools have it."""
    name = os.environ.get("DEBFULLNAME", "The edge-stt maintainers")
    return f"{name} <{os.environ.get('DEBEMAIL', 'maintainers@edge-stt.invalid')}>"


def write_control(target: Target, source: Path, tree: Path, version: str) -> None:
    """DEBIAN/: the control file, the maintainer scripts, the list of configuration files, checksums."""
    major, minor = target.suite.python.split(".")
    depends = [
        f"python3 (>= {target.suite.python}~)",
        f"python3 (<< {major}.{int(minor) + 1}~)",
        "python3-numpy",
        "libc6 (>= 2.34)",
        "libstdc++6",
        "libgcc-s1",
        "passwd",
    ]
    installed = sum(-(-path.lstat().st_size // 1024) for path in _files(tree))
    folder = tree / "DEBIAN"
    folder.mkdir()
    (folder / "control").write_text(
        f"Package: edge-stt\nVersion: {version}\nArchitecture: {target.arch}\nMaintainer: {maintainer()}\n"
        f"Installed-Size: {installed}\nDepends: {', '.join(depends)}\n"
        "Recommends: python3-pyaudio\nSuggests: alsa-utils\nSection: sound\nPriority: optional\n"
        "Description: offline speech-to-text for small computers\n"
        " A speech recogniser that was trained from scratch and runs on a Raspberry Pi\n"
        " without any network: on files, on a microphone, or as a service.\n"
        f" This build uses {target.runtime}.\n",
        encoding="utf-8",
    )
    conffiles = [f"/{path.relative_to(tree)}\n" for path in _files(tree / "etc")]
    if conffiles:
        (folder / "conffiles").write_text("".join(conffiles))
    for name in ("postinst", "prerm", "postrm"):
        _copy(source / "deploy" / "debian" / name, folder / name)
    summed = [path for path in _files(tree) if not path.is_symlink() and _part_of_system(path, tree)]
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in summed]
    (folder / "md5sums").write_text("".join(sums))


def _part_of_system(path: Path, tree: Path) -> bool:
    return path.relative_to(tree).parts[0] not in ("DEBIAN", "etc")


def _files(tree: Path) -> Iterator[Path]:
    return iter(sorted(path for path in tree.rglob("*") if path.is_symlink() or path.is_file()))


def settle(tree: Path, commit: Commit) -> None:
    """Modes and times that depend on nothing but the commit."""
    seconds = int(commit.date.timestamp())
    programs = {tree / "usr/bin/edge-stt", *(tree / "DEBIAN" / name for name in ("postinst", "prerm", "postrm"))}
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in programs else 0o644)
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def build(target: Target, out: Path) -> Path:
    """Build the package into the folder ``out``; its path."""
    commit = last_commit()
    with tempfile.TemporaryDirectory(prefix="edge-stt-deb-") as name:
        work = Path(name)
        source, tree = work / "source", work / "tree"
        source.mkdir()
        tree.mkdir()
        unpack_sources(source)
        version = target.version(commit, source)
        lay_out(target, source, tree, work)
        write_documents(target, source, tree, work, commit, version)
        write_control(target, source, tree, version)
        settle(tree, commit)
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"edge-stt_{version}_{target.arch}.deb"
        new = work / path.name
        run(
            *("dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build", tree, new),
            SOURCE_DATE_EPOCH=str(int(commit.date.timestamp())),
        )
        shutil.copyfile(new, out / f".{path.name}.new")
        (out / f".{path.name}.new").replace(path)
        installed = sum(p.lstat().st_size for p in _files(tree) if "DEBIAN" not in p.parts)
    say(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {installed / 1e6:.1f} MB installed")
    return path


def main() -> None:
    """The command line; prints the package's path on stdout."""
    parser = argparse.ArgumentParser(prog="build-deb", description="Build the Debian package of the last commit.")
    parser.add_argument("arch", choices=MACHINES)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--runtime", choices=RUNTIMES, default=RUNTIMES[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the package (dist)")
    arguments = parser.parse_args()
    if arguments.runtime == "tflite-runtime" and arguments.suite != "bookworm":
        parser.error("tflite-runtime has no wheel for the Python of trixie; choose ai-edge-litert")
    try:
        path = build(Target(arguments.arch, SUITES[arguments.suite], arguments.runtime), arguments.out)
        sys.stdout.write(f"{path}\n")
    except (BuildError, OSError) as error:
        sys.exit(f"build-deb: {error}")


if __name__ == "__main__":
    main()
