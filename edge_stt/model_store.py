"""Installed model packages: several kept side by side, one of them active, the one before it ready to come back.

A store is a folder. ``versions/NAME-CHECKSUM`` are unpacked packages, which never change; the symbolic links ``active``
and ``previous`` point at two of them and are replaced in one step, so that a reader always finds a whole model. Without
``active`` the model that comes with edge-stt is used. A package becomes active only after it gave the outputs that its
golden pair promises, on this machine.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import EdgeSttError, PackageError, reason
from .package import INFO_FILE, ModelPackage
from .recogniser import DEFAULT_MODEL
from .settings import setting
from .signatures import SIGNATURE_FILE, verify_signature

SYSTEM_STORE = Path("/var/lib/edge-stt/models")
ACTIVE, PREVIOUS, VERSIONS = "active", "previous", "versions"
CHOOSE = "choose one: `edge-stt model use NAME`, or shipped"
_NEW, _REMOVED = ".new-", ".removed-"  # beginnings of the names of folders that are being written or deleted


@dataclass(frozen=True)
class ModelsConfig:
    """Which packages may be installed, chosen (`ModelStore`), and loaded by a service (`check_active`)."""

    require_signature: bool = setting(False, "Install and use signed model packages only.")
    public_key: str = setting("", "Their signer's minisign key: the line that begins with RW.")


@dataclass(frozen=True)
class Installed:
    """A package in the store; ``state`` is ``active``, ``previous``, ``missing`` or empty."""

    name: str
    path: Path
    state: str


def user_store() -> Path | None:
    """The store of this user, None when there is no home."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111 - no error without a home
    return Path(data, "edge-stt", "models") if os.path.isabs(data) else None  # noqa: PTH117


def store_paths() -> list[Path]:
    """The stores in which a model is looked for; the first is where this user installs.

    ``EDGE_STT_MODELS`` names another, alone.
    """
    if given := os.environ.get("EDGE_STT_MODELS"):
        return [Path(given)]
    own = user_store()
    return [SYSTEM_STORE] if os.geteuid() == 0 or own is None else [own, SYSTEM_STORE]


def active_model() -> Path | None:
    """The package that `ModelStore.use` chose last, None where none was.

    Raises `PackageError` when that cannot be told: another model than the chosen one must not run unnoticed.
    """
    for store in store_paths():
        link = store / ACTIVE
        try:
            return link.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            if link.is_symlink():
                raise PackageError(f"the active model is not in {store} any more; {CHOOSE}") from error
            continue
        except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself, before Python 3.13
            raise PackageError(
                f"cannot see which model is active in {store}: {reason(error)}; let this user read that folder"
            ) from error
    return None


def missing_model() -> Installed | None:
    """The package that `ModelStore.use` chose last, where it has been deleted since; its ``state`` is ``missing``."""
    for store in store_paths():
        link = store / ACTIVE
        if link.is_symlink():
            target = link.readlink()
            return None if link.exists() else Installed(target.name, store / target, "missing")
    return None


def check_active(config: ModelsConfig, named: str = "") -> None:
    """For a service that is about to load the active package, or the one ``named`` in its settings: is it signed?

    Raises `EdgeSttError` when it must be and is not. Where signatures are not required nothing is read. The model that
    comes along is part of the installation and needs no signature.
    """
    if not config.require_signature:
        return
    path = Path(named) if named else active_model()
    if path is not None and path.resolve() != DEFAULT_MODEL.resolve():
        verify_signature(ModelPackage.load(path), config.public_key)


class ModelStore:
    """One store; see the module. Raises `PackageError` for what cannot be done, and then nothing has changed."""

    def __init__(self, path: Path | None = None, config: ModelsConfig | None = None) -> None:
        self.path = path or store_paths()[0]
        self.config = config or ModelsConfig()

    def installed(self) -> list[Installed]:
        """The packages in it, by name."""
        states = {self._target(link): link for link in (PREVIOUS, ACTIVE)}
        try:
            folders = sorted(p for p in (self.path / VERSIONS).iterdir() if not p.name.startswith("."))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PackageError(f"cannot read {self.path}: {error.strerror}") from error
        return [Installed(folder.name, folder, states.get(folder, "")) for folder in folders]

    def install(self, source: Path) -> Installed:
        """Verify a package (folder or zip) and copy it into the store; it is not active yet."""
        package = ModelPackage.load(source)
        self._check_signature(package)
        name = _version_name(package)
        target = self.path / VERSIONS / name
        with self._locked():
            if not target.is_dir():
                self._copy(package, target)
        return Installed(name, target, "")

    def use(self, name: str) -> Installed:
        """Make an installed package active, by its name or the beginning of it; the active one becomes the previous."""
        with self._locked():
            chosen = self._find(name)
            self._check(chosen.path)
            before = self._target(ACTIVE)
            if before != chosen.path:
                deleted = before is None and (self.path / ACTIVE).is_symlink()
                if not deleted:
                    self._point(PREVIOUS, before)
                self._point(ACTIVE, chosen.path)
        return Installed(chosen.name, chosen.path, ACTIVE)

    def use_shipped(self) -> None:
        """Use the model that comes along with edge-stt again; the active one becomes the previous."""
        with self._locked():
            active = self._target(ACTIVE)
            if active is not None:
                self._point(PREVIOUS, active)
            self._point(ACTIVE, None)  # a link to a package that is gone, too

    def rollback(self) -> Installed | None:
        """Make the previous package active again, and the active one previous; None: the one that comes along."""
        with self._locked():
            active, previous = self._target(ACTIVE), self._target(PREVIOUS)
            if previous is None and (self.path / PREVIOUS).is_symlink():
                raise PackageError(f"the model before is not in {self.path} any more; {CHOOSE}")
            if active is None and previous is None:
                raise PackageError("there is no other model to go back to; `edge-stt model install` one first")
            if previous is not None:
                self._check(previous)
            self._point(ACTIVE, previous)
            self._point(PREVIOUS, active)
        return Installed(previous.name, previous, ACTIVE) if previous is not None else None

    def remove(self, name: str) -> Installed:
        """Delete an installed package that is neither active nor the previous one."""
        with self._locked():
            chosen = self._find(name)
            if chosen.state:
                raise PackageError(f"{chosen.name} is the {chosen.state} model; use another one first")
            # Out of sight in one step: who lists the store meanwhile sees a whole package or none.
            hidden = chosen.path.with_name(f"{_REMOVED}{chosen.name}")
            chosen.path.rename(hidden)
            shutil.rmtree(hidden)
        return chosen

    def _find(self, name: str) -> Installed:
        installed = self.installed()
        found = [entry for entry in installed if entry.name == name]
        found = found or [entry for entry in installed if name and entry.name.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise PackageError(f"{name!r} may be {' or '.join(entry.name for entry in found)}: write more of it")
        known = ", ".join(entry.name for entry in installed) or "nothing"
        raise PackageError(f"no model {name!r} is installed; installed: {known}")

    def _check(self, path: Path) -> None:
        """Raises `EdgeSttError` unless the package is whole, signed where it must be, and works on this machine."""
        self._check_signature(ModelPackage.load(path))
        check_golden_pair(path)

    def _check_signature(self, package: ModelPackage) -> None:
        if self.config.require_signature:
            verify_signature(package, self.config.public_key)

    def _copy(self, package: ModelPackage, target: Path) -> None:
        """Copy file by file what the package lists, and its signature; on the disk before it gets its name."""
        work = Path(tempfile.mkdtemp(prefix=_NEW, dir=target.parent))
        try:
            names = [*package.files, INFO_FILE]
            with suppress(PackageError):
                package.read(SIGNATURE_FILE)
                names.append(SIGNATURE_FILE)
            for name in names:
                with (work / name).open("wb") as file:
                    file.write(package.read(name))
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
            ModelPackage.load(work)  # what was read first and what was read now may differ: check what was written
            work.chmod(0o755)
            work.rename(target)
            _sync(target.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _target(self, link: str) -> Path | None:
        """The folder that a link of the store points at, None when there is no such link or folder."""
        try:
            target = self.path / (self.path / link).readlink()
        except OSError:
            return None
        return target if target.is_dir() else None

    def _point(self, link: str, target: Path | None) -> None:
        path = self.path / link
        if target is None:
            path.unlink(missing_ok=True)
        else:
            new = self.path / f".{link}-new"
            new.unlink(missing_ok=True)
            new.symlink_to(target.relative_to(self.path))
            new.replace(path)
        _sync(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let nobody else change the store; what the system refuses becomes a `PackageError`."""
        try:
            self._make_folders()
            with (self.path / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._clear()
                yield
        except OSError as error:
            raise PackageError(f"cannot change {self.path}: {error.strerror or error}") from error

    def _make_folders(self) -> None:
        """Whatever the umask of who installs, the service's user must come through the folders made here.

        Those above the store are root's to open; in a home they stay as the umask wants them.
        """
        versions = self.path / VERSIONS
        missing = [folder for folder in (versions, *versions.parents) if not folder.exists()]
        versions.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            if folder in (versions, self.path) or os.geteuid() == 0:
                folder.chmod(0o755)

    def _clear(self) -> None:
        """Delete what a change that was broken off left behind: under the lock it is nobody's work."""
        for folder in (self.path / VERSIONS).iterdir():
            if folder.name.startswith((_NEW, _REMOVED)):
                shutil.rmtree(folder, ignore_errors=True)


def check_golden_pair(path: Path) -> None:
    """Raises `PackageError` when the package's network does not give the outputs it promises on this machine."""
    from .health import golden_check

    try:
        golden_check(path)
    except EdgeSttError as error:
        raise PackageError(f"{path.name} does not work on this machine: {error}") from error


def _version_name(package: ModelPackage) -> str:
    """Name and the start of the checksum: packages that differ in a byte have other names."""
    import hashlib

    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in package.info.name).strip(".") or "model"
    return f"{safe[:80]}-{hashlib.sha256(package.read(INFO_FILE)).hexdigest()[:10]}"


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
