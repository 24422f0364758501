"""`edge-stt deploy` over a real sshd, into a throwaway copy of this machine's file system, with real dpkg."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edge_stt.debian_package import Deb, DebError, choose_deb, read_deb
from edge_stt.deployment import DeployError, Deployment, Device, NotRestoredError, check, check_space
from edge_stt.errors import UsageError
from edge_stt.package import ModelPackage, write_package
from edge_stt.recogniser import DEFAULT_MODEL
from edge_stt.remote import Remote, RemoteError

from .conftest import ROOT

CODENAME = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
NEEDS = ("sshd", "ssh", "ssh-keygen", "dpkg-deb", "apt-get", "unshare")
missing = [name for name in NEEDS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
needs_debian = pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")
PI = Device("arm64", "bookworm", "Raspberry Pi OS", "3.11", 10**6, 10**6, "sudo", "", "", "", True, "active", "enabled")

# The machine deployed to: this one's files under an overlay in memory, in a mount namespace of its own.
MACHINE = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" none "$1/root"
for name in proc dev; do mount --rbind "/$name" "$1/root/$name"; done
mkdir -p "$1/root/run/sshd"
rm -rf "$1/root/var/lib/edge-stt" "$1/root/var/cache/edge-stt" "$1/root/etc/edge-stt"
rm -f "$1/root/root/.bashrc"  # every command over ssh would wait for all that a developer has in it
exec chroot "$1/root" /usr/sbin/sshd -D -e -f "$2"
"""


def make_deb(
    folder: Path, version: str, program: str, release: int | None = None, arch: str = ARCH, postinst: str = "true"
) -> Path:
    """A package whose edge-stt is a shell script; what purging does is what it does."""
    tree = folder / f"tree-{version}"
    for name in ("DEBIAN", "usr/bin", "etc/edge-stt"):
        (tree / name).mkdir(parents=True)
    number = release or {"bookworm": 12, "trixie": 13}.get(CODENAME, 12)
    (tree / "DEBIAN/control").write_text(
        f"Package: edge-stt\nVersion: {version}~deb{number}\nArchitecture: {arch}\nMaintainer: x <x@example.org>\n"
        "Installed-Size: 1000\nDescription: test\n"
    )
    (tree / "DEBIAN/conffiles").write_text("/etc/edge-stt/config.toml\n")
    (tree / "etc/edge-stt/config.toml").write_text(f"# {version}\n")
    (tree / "usr/bin/edge-stt").write_text(f"#!/bin/sh\n{program}\n")
    (tree / "DEBIAN/postinst").write_text(f"#!/bin/sh\n{postinst}\n")
    shutil.copy(ROOT / "deploy/debian/postrm", tree / "DEBIAN")
    for name in ("usr/bin/edge-stt", "DEBIAN/postinst", "DEBIAN/postrm"):
        (tree / name).chmod(0o755)
    path = folder / f"edge-stt_{version}~deb{number}_{arch}.deb"
    subprocess.run(["dpkg-deb", "-Zxz", "--build", tree, path], check=True, capture_output=True)
    return path


# The command line of this checkout: doctor and model do there what they do everywhere.
WORKS = f'cd {ROOT} && exec {sys.executable} -m edge_stt.cli "$@"'
BREAKS = f'[ "$1" != doctor ] || {{ echo "no runtime" >&2; exit 3; }}; {WORKS}'


@dataclass
class Machine:
    """A running sshd, and how to get at it."""

    folder: Path
    options: str

    def deploy(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_stt.cli", "deploy", "root@localhost", "--ssh-options", self.options]
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )

    def run(self, script: str) -> str:
        command = ["ssh", *self.options.split(), "root@localhost", script]
        return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout

    def reset(self, deb: Path | None = None) -> None:
        """Nothing of edge-stt is there, or just this package."""
        self.run("dpkg --purge edge-stt; rm -rf /var/lib/edge-stt /var/cache/edge-stt /etc/edge-stt /root/reached")
        if deb is not None:
            self.run(f"dpkg -i {deb}")

    def version(self) -> str:
        return self.run("dpkg-query -W -f '${Version}' edge-stt 2>/dev/null || true").partition("~")[0]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs {', '.join(missing) or 'root'}")
    if CODENAME not in ("bookworm", "trixie"):
        pytest.skip(f"needs Debian bookworm or trixie, not {CODENAME}")
    folder = tmp_path_factory.mktemp("machine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        "PermitRootLogin yes\nStrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n"
    )
    key = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[localhost]:{port} {key[0]} {key[1]}\n")
    (folder / "mount").mkdir()
    command = ["unshare", "--mount", "sh", "-c", MACHINE, "sh", folder / "mount", folder / "config"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as server:
        options = f"-p {port} -i {folder}/user -o UserKnownHostsFile={folder}/known -o IdentitiesOnly=yes"
        try:
            deadline = time.monotonic() + 60
            while "Server listening" not in (folder / "log").read_text():
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"no overlay or no sshd here: {(folder / 'log').read_text().strip()[-200:]}")
                time.sleep(0.05)
            yield Machine(folder, options)
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("debs")
    return {name: make_deb(folder, name, program) for name, program in (("1", WORKS), ("2", WORKS), ("3", BREAKS))}


def model_package(path: Path, name: str) -> Path:
    package = ModelPackage.load(DEFAULT_MODEL)
    return write_package(path, replace(package.info, name=name), {f: package.read(f) for f in package.files}).path


def test_from_nothing_to_a_new_version_and_back_from_a_broken_one(
    machine: Machine, debs: dict[str, Path], tmp_path: Path
) -> None:
    broken_at_first = machine.deploy("--deb", debs["3"])
    assert broken_at_first.returncode == 1
    assert "no edge-stt" in broken_at_first.stderr.splitlines()[-1]
    assert machine.run("ls /usr/bin/edge-stt /etc/edge-stt 2>/dev/null || true") == ""

    first = machine.deploy("--deb", debs["1"], "--package", model_package(tmp_path / "one", "one"))
    assert first.returncode == 0, first.stderr
    assert any(line.startswith("ok   golden pair: ") for line in first.stdout.splitlines())
    assert "one-" in first.stderr
    assert machine.version() == "1"

    machine.run("echo '# mine' >> /etc/edge-stt/config.toml")
    second = machine.deploy("--deb", debs["2"])
    assert second.returncode == 0, second.stderr
    assert machine.version() == "2"

    third = machine.deploy("--deb", debs["3"], "--package", model_package(tmp_path / "two.zip", "two"))
    assert third.returncode == 1
    assert "doctor" not in third.stdout
    assert third.stderr.splitlines()[-1].startswith("edge-stt: root@localhost: no runtime; the machine is back at 2~")
    assert machine.version() == "2"
    assert "active   one-" in machine.run("edge-stt model list")
    assert machine.run("cat /etc/edge-stt/config.toml") == "# 1\n# mine\n"  # what a person wrote outlives it all
    assert machine.run("ls -d /var/tmp/edge-stt-deploy.* 2>/dev/null || true") == ""

    again = machine.deploy("--deb", debs["2"])
    assert again.returncode == 0
    assert "installed already" in again.stderr


def test_a_failed_first_deployment_leaves_what_was_there_before(
    machine: Machine, debs: dict[str, Path], tmp_path: Path
) -> None:
    """As pip's edge-stt had it when root used it, or a package that was removed and not purged."""
    machine.reset()
    machine.run("mkdir -p /etc/edge-stt /var/cache/edge-stt /var/lib/edge-stt/models/versions/mine")
    machine.run("ln -s versions/mine /var/lib/edge-stt/models/active; echo '# mine' > /etc/edge-stt/config.toml")
    done = machine.deploy("--deb", debs["3"], "--package", model_package(tmp_path / "one", "one"))
    assert done.returncode == 1
    assert done.stderr.endswith("no runtime; the machine is back at no edge-stt\n"), done.stderr
    assert "installed and active" in done.stderr
    assert machine.run("ls /usr/bin/edge-stt 2>/dev/null || true") == ""
    show = (
        "cat /etc/edge-stt/config.toml; cd /var/lib/edge-stt/models; ls -d /var/cache/edge-stt active/; readlink active"
    )
    assert machine.run(show) == "# mine\n/var/cache/edge-stt\nactive/\nversions/mine\n"


def test_a_deleted_configuration_file_stays_deleted(machine: Machine, debs: dict[str, Path]) -> None:
    machine.reset(debs["1"])
    machine.run("rm /etc/edge-stt/config.toml")
    broken = machine.deploy("--deb", debs["3"])
    assert "the machine is back at 1~" in broken.stderr.splitlines()[-1]
    assert machine.version() == "1"
    assert "config.toml" not in machine.run("ls /etc/edge-stt").split()


WAITS = "touch /root/reached; sleep 4"


@pytest.mark.parametrize(
    ("program", "postinst"),
    [(f'[ "$1" != doctor ] || {{ {WAITS}; }}; {WORKS}', "true"), (WORKS, WAITS)],
    ids=["doctor", "dpkg"],
)
def test_ctrl_c_goes_back(machine: Machine, debs: dict[str, Path], tmp_path: Path, program: str, postinst: str) -> None:
    """Whether doctor runs, or dpkg, which must not be left in the middle of its work."""
    machine.reset(debs["1"])
    command = [sys.executable, "-m", "edge_stt.cli", "deploy", "root@localhost", "--ssh-options", machine.options]
    command += ["--deb", str(make_deb(tmp_path, "4", program, postinst=postinst))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as deploying:
        while not machine.run("cat /root/reached 2>/dev/null && echo yes || true"):
            assert deploying.poll() is None
            time.sleep(0.1)
        os.killpg(deploying.pid, signal.SIGINT)  # as a terminal does: ssh gets it too
        said = deploying.communicate()[1]
    assert deploying.returncode != 0
    assert "interrupted: going back\nthe machine is back at 1~" in said, said
    assert "Traceback" not in said
    assert machine.version() == "1"
    assert machine.run("dpkg --audit; ls -d /var/tmp/edge-stt-deploy.* 2>/dev/null || true") == ""


class Unlucky(Remote):
    """A machine on which doctor ends with an error, and on which the old package cannot be installed again."""

    def __init__(self, error: BaseException, goes_back: bool) -> None:
        self.host, self.error, self.goes_back = "kitchen", error, goes_back
        self.done: list[str] = []

    def run(self, script: str, stdin: bytes = b"") -> str:
        self.done.append(script)
        if "doctor" in script:
            raise self.error
        return "/var/tmp/edge-stt-deploy.x\n" if "mktemp" in script else ""

    def root(self, script: str, stdin: bytes = b"") -> str:
        self.done.append(script)
        if "apt-get" in script and "/old.deb" in script and not self.goes_back:
            raise RemoteError("kitchen: no space left")
        return ""

    def send(self, path: Path, target: str) -> None:
        pass


@pytest.mark.parametrize("error", [RemoteError("kitchen: no runtime"), KeyboardInterrupt()])
def test_the_way_back_is_kept_where_going_back_fails(error: BaseException) -> None:
    deb = Deb(Path("new.deb"), "2~deb12", "arm64", 1000)
    pi = replace(PI, installed="install ok installed|1~deb12")
    remote = Unlucky(error, goes_back=False)
    with pytest.raises(
        NotRestoredError, match=r"1~deb12 failed: kitchen: no space left; .* in /var/tmp/edge-stt-deploy\.x"
    ):
        Deployment(remote, pi, lambda _: None).run(deb, None, True)
    assert not [script for script in remote.done if "rm -rf" in script]
    remote = Unlucky(error, goes_back=True)
    with pytest.raises((DeployError, KeyboardInterrupt)):
        Deployment(remote, pi, lambda _: None).run(deb, None, True)
    assert remote.done[-1] == "rm -rf /var/tmp/edge-stt-deploy.x"


def test_options_for_ssh_that_no_shell_splits() -> None:
    command = [sys.executable, "-m", "edge_stt.cli", "deploy", "pi@kitchen", "--ssh-options", "-o 'x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'edge-stt: --ssh-options "-o \'x": no closing quotation\n'


def test_a_half_installed_package_is_left_alone(machine: Machine, debs: dict[str, Path]) -> None:
    machine.run("cp -a /var/lib/dpkg/status /root/status")
    stanza = "Package: edge-stt\\nStatus: install ok half-configured\\nVersion: 1\\nArchitecture: all\\n"
    stanza += "Maintainer: x <x@example.org>\\nDescription: x\\n\\n"
    machine.run(f"sed -i '/^Package: edge-stt$/,/^$/d' /var/lib/dpkg/status; printf '{stanza}' >> /var/lib/dpkg/status")
    done = machine.deploy("--deb", debs["1"])
    machine.run("mv /root/status /var/lib/dpkg/status")
    assert (done.returncode, done.stderr.count("half installed there")) == (1, 1)
    assert done.stdout == ""


def test_who_cannot_get_in(machine: Machine, debs: dict[str, Path], tmp_path: Path) -> None:
    def why(options: str) -> str:
        done = replace(machine, options=options).deploy("--deb", debs["1"])
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
        return done.stderr

    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    key = (tmp_path / "other.pub").read_text().split()
    name = (machine.folder / "known").read_text().split()[0]
    (tmp_path / "known").write_text(f"{name} {key[0]} {key[1]}\n")
    known, user = f"UserKnownHostsFile={machine.folder}/known", f"{machine.folder}/user"
    assert "host key is not the known one" in why(
        machine.options.replace(known, f"UserKnownHostsFile={tmp_path}/known")
    )
    assert "connect once by hand" in why(machine.options.replace(known, f"UserKnownHostsFile={tmp_path}/none"))
    assert "ssh-copy-id" in why(machine.options.replace(user, f"{tmp_path}/other"))
    assert "nothing there answers" in why("-p 1")


@pytest.mark.parametrize("host", ["", "-oProxyCommand=true"])
def test_what_is_no_host_is_a_wrong_call(host: str) -> None:
    with pytest.raises(UsageError, match="write user@host"):
        Remote(host)


def test_what_no_machine_takes() -> None:
    check(PI)
    for change, reason in (
        ({"arch": "armhf"}, "32-bit"),
        ({"arch": "riscv64"}, "riscv64"),
        ({"codename": "bullseye", "system": "Debian 11"}, "Debian 11"),
        ({"python": "3.9"}, r"3\.9, not bookworm's 3\.11"),
        ({"root": ""}, "cannot become root"),
        ({"broken": "libc6"}, "libc6 is half installed"),
        ({"installed": "install ok half-configured|1"}, "edge-stt is half installed"),
    ):
        with pytest.raises(DeployError, match=reason):
            check(replace(PI, **change))  # type: ignore[arg-type]


@needs_debian
def test_which_package(tmp_path: Path) -> None:
    arm = make_deb(tmp_path, "1", "true", 12, "arm64")
    make_deb(tmp_path, "2", "true", 13, "arm64")
    deb = choose_deb(tmp_path, "arm64", "bookworm")
    assert (deb.path, deb.version, deb.installed_kb) == (arm, "1~deb12", 1000)
    for source, arch, codename, reason in (
        (tmp_path, "amd64", "bookworm", "no package for amd64"),
        (arm, "amd64", "bookworm", "is for arm64, but the machine is amd64"),
        (arm, "arm64", "trixie", "is for Debian 12"),
        (tmp_path / "none", "arm64", "trixie", "build the package"),
    ):
        with pytest.raises(DebError, match=reason):
            choose_deb(source, arch, codename)
    for content in (b"", b"not a package", arm.read_bytes()[:-10], arm.read_bytes()[:100]):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DebError, match="not a whole Debian package"):
            read_deb(tmp_path / "bad")
    with pytest.raises(DeployError, match="/usr has 1 MB free"):
        check_space(replace(PI, free_kb=1000), deb)
