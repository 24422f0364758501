"""edge-stt on another machine: looked at, installed over ssh, and put back as it was when it does not work there.

Nothing is changed before everything that can be known beforehand is known: reachable, the right processor, release and
Python, root, space, no half-installed packages.
"""

from __future__ import annotations

import json
import shlex
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .debian_package import ARCHITECTURES, PYTHONS, Deb
from .errors import EdgeSttError, PackageError
from .package import INFO_FILE, ModelPackage
from .remote import Remote, RemoteError
from .signatures import SIGNATURE_FILE

SERVICE = "edge-stt.service"
ACTIVE_LINK = "/var/lib/edge-stt/models/active"
ACTIVE_MODEL = f"readlink {ACTIVE_LINK} || true"
# Checks of `edge-stt doctor` without which nothing works; the others are the owner's to mend.
NEEDED = ("Python", "TFLite runtime", "numpy", "model package", "golden pair")
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y --allow-downgrades -o Dpkg::Options::=--force-confold"

LOOK = r"""
. /etc/os-release 2>/dev/null
echo "arch=$(dpkg --print-architecture 2>/dev/null || uname -m)"
echo "codename=$VERSION_CODENAME"
echo "system=$PRETTY_NAME"
echo "python=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
echo "free_kb=$(df -Pk /usr | awk 'NR == 2 { print $4 }')"
echo "free_temporary_kb=$(df -Pk /var/tmp | awk 'NR == 2 { print $4 }')"
echo "root=$(if [ "$(id -u)" = 0 ]; then echo is; elif sudo -n true 2>/dev/null; then echo sudo; fi)"
echo "installed=$(dpkg-query -W -f '${Status}|${Version}' edge-stt 2>/dev/null)"
echo "belongings=$({
    ls -d /var/lib/edge-stt /var/cache/edge-stt /etc/edge-stt
    getent passwd edge-stt
} 2>/dev/null | head -n 1)"
echo "broken=$(dpkg --audit 2>/dev/null | grep -m 1 '^ ' | awk '{ print $1 }')"
echo "systemd=$(if [ -d /run/systemd/system ]; then echo yes; fi)"
echo "service=$(systemctl is-active edge-stt.service 2>/dev/null)"
echo "enabled=$(systemctl is-enabled edge-stt.service 2>/dev/null)"
"""

# The installed package as a .deb again, from dpkg's own records: what to go back to need not be kept anywhere.
# dpkg also lists configuration files that the owner deleted; they are left out, so that they stay deleted.
REPACK = r"""
set -e
tree=$1/old
mkdir -p "$tree/DEBIAN"
dpkg-query -L edge-stt | while IFS= read -r path; do
    if [ -d "$path" ] && [ ! -L "$path" ]; then mkdir -p "$tree$path"
    elif [ -e "$path" ] || [ -L "$path" ]; then cp -a "$path" "$tree$path"; fi
done
dpkg-query -s edge-stt | sed -e '/^Status:/d' -e '/^Conffiles:/,/^[^ ]/{/^Conffiles:/d;/^ /d}' > "$tree/DEBIAN/control"
for script in preinst postinst prerm postrm; do
    from=/var/lib/dpkg/info/edge-stt.$script
    if [ -e "$from" ]; then cp "$from" "$tree/DEBIAN/"; fi
done
if [ -e /var/lib/dpkg/info/edge-stt.conffiles ]; then
    while IFS= read -r path; do
        if [ -e "$tree$path" ] || [ -L "$tree$path" ]; then echo "$path"; fi
    done < /var/lib/dpkg/info/edge-stt.conffiles > "$tree/DEBIAN/conffiles"
fi
dpkg-deb -Znone --root-owner-group --build "$tree" "$1/old.deb" >/dev/null
rm -r "$tree"
"""


class DeployError(EdgeSttError):
    """The machine cannot take the package, or did not work with it."""


class NotRestoredError(DeployError):
    """It did not work, and going back did not work either."""


@dataclass(frozen=True)
class Device:
    """What the other machine is, as far as it matters here.

    ``belongings`` names something that edge-stt keeps there, which it may do without being installed as a package.
    """

    arch: str
    codename: str
    system: str
    python: str
    free_kb: int
    free_temporary_kb: int
    root: str
    installed: str
    belongings: str
    broken: str
    systemd: bool
    service: str
    enabled: str

    @property
    def version(self) -> str:
        """Of the installed edge-stt; empty when there is none."""
        return self.installed.partition("|")[2] if self.installed.startswith("install ok installed") else ""


def look(remote: Remote) -> Device:
    """Ask the machine; raises `RemoteError` when it cannot be reached, `DeployError` when it tells nonsense."""
    told = dict(line.split("=", 1) for line in remote.run(LOOK).splitlines() if "=" in line)
    try:
        numbers = {key: int(told.pop(key)) for key in ("free_kb", "free_temporary_kb")}
        return Device(systemd=told.pop("systemd") == "yes", **numbers, **told)  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError) as error:
        raise DeployError(f"{remote.host}: this is no Debian system that edge-stt knows") from error


def check(device: Device) -> None:
    """Raises `DeployError` when the machine cannot take any package."""
    if device.arch in ("armhf", "armv7l", "armv6l"):
        raise DeployError("a 32-bit system: there is no package for it; docs/raspberry-pi.md says what works there")
    if device.arch not in ARCHITECTURES:
        raise DeployError(f"processor {device.arch}: there are packages for {' and '.join(ARCHITECTURES)} only")
    if device.codename not in PYTHONS:
        raise DeployError(f"{device.system}: there are packages for Debian {' and '.join(PYTHONS)} only")
    if device.python not in ("", PYTHONS[device.codename]):
        raise DeployError(f"/usr/bin/python3 is {device.python}, not {device.codename}'s {PYTHONS[device.codename]}")
    if not device.root:
        raise DeployError("this user cannot become root without a password; allow it sudo, or log in as root")
    if device.broken or (device.installed and not device.version and "deinstall ok" not in device.installed):
        package = device.broken or "edge-stt"
        raise DeployError(f"{package} is half installed there: first run `sudo dpkg --configure -a` there")


def check_space(device: Device, deb: Deb) -> None:
    """Raises `DeployError` when the package does not fit, its dependencies and a copy of the old one included."""
    dependencies = 0 if device.version else 60_000  # numpy with its libraries
    for name, free, needed in (
        ("/usr", device.free_kb, 2 * deb.installed_kb + dependencies),
        ("/var/tmp", device.free_temporary_kb, 3 * deb.installed_kb),
    ):
        if free < needed:
            raise DeployError(f"{name} has {free / 1e3:.0f} MB free there, and {needed / 1e3:.0f} MB are needed")


@contextmanager
def unbroken(heed: bool = True) -> Iterator[None]:
    """Ctrl-C waits until this is over, or with ``heed`` false is forgotten.

    ssh inherits the blocked signal. Else it would end at once, and leave dpkg running there with nobody to talk to.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        if not heed:
            signal.sigtimedwait({signal.SIGINT}, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Deployment:
    """The steps of one deployment; ``say`` gets a line for each."""

    def __init__(self, remote: Remote, device: Device, say: Callable[[str], None]) -> None:
        remote.become_root("" if device.root == "is" else "sudo -n")
        self.remote, self.device, self.say = remote, device, say

    def run(self, deb: Deb, model: Path | None, service: bool) -> list[str]:
        """Install the package, a model if one is given, and enable the service; what doctor says there.

        Raises `EdgeSttError` when it does not work there; all is then as it was before, also after Ctrl-C. Where it is
        not, the error is a `NotRestoredError` that names the folder there with all that going back needs.
        """
        folder = self.remote.run("mktemp -d /var/tmp/edge-stt-deploy.XXXXXX").strip()
        try:
            self._fetch_ready(folder, deb, model)
            lines = self._change(folder, deb, model, service and self.device.systemd)
        except NotRestoredError:
            raise
        except BaseException:
            self._clear(folder)
            raise
        self._clear(folder)
        return lines

    def _change(self, folder: str, deb: Deb, model: Path | None, service: bool) -> list[str]:
        """All that changes the machine, and what doctor says then; undone when any of it fails."""
        active = self.remote.root(ACTIVE_MODEL)
        changed = deb.version != self.device.version
        try:
            if changed:
                self.say(f"installing {deb.version}; Ctrl-C is heeded after that")
                self._install(f"{folder}/new.deb")
                self.say(f"installed {deb.version}")
            else:
                self.say(f"{deb.version} is installed already")
            if model is not None:
                with unbroken():
                    said = self.remote.root(f"edge-stt model install {shlex.quote(folder)}/model.zip")
                self.say(said.strip())
            if service:
                self._start()
            return self._doctor()
        except BaseException as error:
            with unbroken(heed=False):
                self._go_back(error, folder, changed, active, service)
            raise

    def _go_back(self, error: BaseException, folder: str, changed: bool, active: str, service: bool) -> None:
        """Undo it all and say so: raises `DeployError` unless ``error`` is Ctrl-C or a mistake of this program."""
        back = self.device.version or "no edge-stt"
        mishap = isinstance(error, EdgeSttError)
        why = str(error) if mishap else "interrupted"
        self.say(f"{'it does not work' if mishap else why}: going back")
        try:
            self._restore(folder, changed, active, service)
        except EdgeSttError as other:
            raise NotRestoredError(
                f"{why}; and going back to {back} failed: {other}; what it needs is kept there in {folder}"
            ) from error
        if mishap:
            raise DeployError(f"{why}; the machine is back at {back}") from error
        self.say(f"the machine is back at {back}")

    def _clear(self, folder: str) -> None:
        with suppress(EdgeSttError):
            self.remote.root(f"rm -rf {shlex.quote(folder)}")

    def _fetch_ready(self, folder: str, deb: Deb, model: Path | None) -> None:
        """Bring everything there, and make what to go back to."""
        self.remote.send(deb.path, f"{folder}/new.deb")
        if model is not None:
            with tempfile.TemporaryDirectory(prefix="edge-stt-") as local:
                self.remote.send(as_zip(model, Path(local) / "model.zip"), f"{folder}/model.zip")
        if self.device.version and self.device.version != deb.version:
            with unbroken():
                self.remote.root(f"set -- {shlex.quote(folder)}\n{REPACK}")
            self.say(f"kept {self.device.version} to go back to")

    def _install(self, path: str) -> None:
        path = shlex.quote(path)
        with unbroken():
            try:
                self.remote.root(f"{INSTALL} {path} </dev/null")
            except RemoteError:  # Debian's lists may be old, or not there yet
                self.remote.root(f"apt-get update -qq && {INSTALL} {path} </dev/null")

    def _start(self) -> None:
        """Enable and start the service; systemd answers once it is ready, or has given up."""
        try:
            self.remote.root(f"systemctl enable --quiet {SERVICE} && systemctl restart {SERVICE}")
            self.remote.root(f"sleep 3; systemctl is-active {SERVICE}")
        except RemoteError as error:
            last = self.remote.root(f"journalctl -u {SERVICE} -n 1 -o cat 2>/dev/null || true").strip()
            raise DeployError(f"the service does not become ready: {last or error}") from error
        self.say(f"{SERVICE} is ready")

    def _doctor(self) -> list[str]:
        """Doctor's lines; raises `DeployError` when a check of `NEEDED` fails."""
        answer = self.remote.run("edge-stt doctor --json --seconds 1 || [ $? = 1 ]")
        try:
            checks = json.loads(answer)
            failed = [c for c in checks if not c["ok"] and c["name"] in NEEDED]
            marks = ["FAIL" if not c["ok"] else "note" if c["note"] else "ok  " for c in checks]
            lines = [f"{mark} {c['name']}: {c['detail']}" for mark, c in zip(marks, checks, strict=True)]
        except (ValueError, KeyError, TypeError) as error:
            raise DeployError("edge-stt doctor gives no answer there") from error
        if failed:
            raise DeployError(f"doctor: {failed[0]['name']}: {failed[0]['detail']}")
        return lines

    def _restore(self, folder: str, changed: bool, active: str, service: bool) -> None:
        """As it was: the package, the model, the service."""
        if changed and self.device.version:
            self.remote.root(f"{INSTALL} {shlex.quote(folder)}/old.deb </dev/null")
        elif changed:
            # Purging deletes models and settings: only where all of them came with this deployment.
            how = "--remove" if self.device.belongings else "--purge"
            self.remote.root(f"dpkg {how} --force-remove-reinstreq edge-stt </dev/null")
        self._restore_model(active)
        if service and self.device.version:
            if self.device.enabled != "enabled":
                self.remote.root(f"systemctl disable --quiet {SERVICE}")
            self.remote.root(f"systemctl {'restart' if self.device.service == 'active' else 'stop'} {SERVICE}")

    def _restore_model(self, active: str) -> None:
        if self.remote.root(ACTIVE_MODEL) == active:
            return
        if self.device.version:
            self.remote.root("edge-stt model rollback")
        elif active:  # of an edge-stt that is no package
            self.remote.root(f"ln -sfn {shlex.quote(active.strip())} {ACTIVE_LINK}")
        else:
            self.remote.root(f"rm -f {ACTIVE_LINK}")


def as_zip(model: Path, target: Path) -> Path:
    """A verified model package as one file, its signature included; raises `PackageError`."""
    package = ModelPackage.load(model)
    if not model.is_dir():
        return model
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [*package.files, INFO_FILE]:
            archive.writestr(name, package.read(name))
        with suppress(PackageError):
            archive.writestr(SIGNATURE_FILE, package.read(SIGNATURE_FILE))
    return target
