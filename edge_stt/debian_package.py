"""Debian packages of edge-stt: what their control file says, and which of several is for a machine."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .errors import EdgeSttError

RELEASES = {"bookworm": 12, "trixie": 13}
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
ARCHITECTURES = ("arm64", "amd64")


class DebError(EdgeSttError):
    """A file is no Debian package of edge-stt, or none fits."""


@dataclass(frozen=True)
class Deb:
    """One package file; ``installed_kb`` is the space it takes."""

    path: Path
    version: str
    arch: str
    installed_kb: int

    @property
    def release(self) -> int | None:
        """Debian's number that the version ends with: ``…~deb12``."""
        found = re.search(r"~deb(\d+)", self.version)
        return int(found[1]) if found else None


def read_deb(path: Path) -> Deb:
    """The control file of a package; raises `DebError` for anything else."""
    if not path.exists():
        raise DebError(f"there is no {path}: build the package with deploy/build-deb")
    try:
        control = _control(path.read_bytes())
        fields = dict(re.findall(r"^([\w-]+): (.*)$", control, re.MULTILINE))
        if fields["Package"] != "edge-stt":
            raise DebError(f"{path} is a package of {fields['Package']}, not of edge-stt")
        return Deb(path, fields["Version"], fields["Architecture"], int(fields.get("Installed-Size", 0)))
    except (OSError, ValueError, KeyError, EOFError, tarfile.TarError) as error:
        raise DebError(
            f"{path} is not a whole Debian package ({error}); build it again with deploy/build-deb"
        ) from error


def _control(content: bytes) -> str:
    """deb(5): an ar archive of debian-binary, control.tar.*, data.tar.*; a header of 60 bytes before each."""
    if not content.startswith(b"!<arch>\n"):
        raise ValueError("no ar archive")
    at, control = 8, None
    while at + 60 <= len(content):
        name, size = content[at : at + 16].decode().strip().rstrip("/"), int(content[at + 48 : at + 58])
        data = content[at + 60 : at + 60 + size]
        if len(data) < size:
            raise ValueError("it ends too early")
        if name.startswith("control.tar"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                member = tar.extractfile("./control")
                control = member.read().decode() if member else None
        at += 60 + size + size % 2
    if control is None or at < len(content):
        raise ValueError("it has no control file" if control is None else "it ends too early")
    return control


def choose_deb(source: Path, arch: str, codename: str) -> Deb:
    """The package for a machine: the file itself, or the newest that fits of a folder; raises `DebError`."""
    if source.is_dir():
        debs = [read_deb(path) for path in sorted(source.glob("edge-stt_*.deb"))]
        debs = [deb for deb in debs if deb.arch == arch and deb.release == RELEASES[codename]]
        debs = [deb for deb in debs if "+tflite" not in deb.version] or debs
        if not debs:
            raise DebError(f"{source} has no package for {arch} and {codename}: deploy/build-deb {arch} {codename}")
        return max(debs, key=lambda deb: deb.path.stat().st_mtime)
    deb = read_deb(source)
    if deb.arch != arch:
        raise DebError(f"{source.name} is for {deb.arch}, but the machine is {arch}")
    if deb.release not in (None, RELEASES[codename]):
        raise DebError(f"{source.name} is for Debian {deb.release}, but the machine runs {codename}")
    return deb
