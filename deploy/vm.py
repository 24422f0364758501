"""An emulated Cortex-A72 machine: Debian's kernel, a file system of packages that were unpacked only, systemd, sshd.

The file system is the initramfs, so nothing is mounted and no disk is emulated. The kernel for clouds has no sound.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rootfs

MEMORY_MB = 2048  # of a Raspberry Pi 4's smallest; a Pi 3 has 1024, which the initramfs alone would fill
USER = "pi"
MODULES = ("kernel/drivers/virtio", "kernel/drivers/net/virtio_net.ko", "kernel/drivers/net/net_failover.ko")
MODULES += ("kernel/net/core/failover.ko", "kernel/drivers/char/hw_random/virtio-rng.ko")
KIND = rootfs.Kind(
    "machine",
    (
        *(name for name in rootfs.PACKAGES if name != "systemd-standalone-sysusers"),
        *("systemd", "systemd-sysv", "dbus", "mount", "kmod", "iproute2", "procps", "apt", "sudo", "openssh-server"),
        *("perl-base", "linux-image-cloud-arm64", "python3-pyaudio", "python3-cryptography", "minisign"),
    ),
)
FAST = ("-smp", "2", "-accel", "tcg,thread=multi")
COUNTING = ("-smp", "1", "-icount", "shift=0")
NETWORK = """
[Unit]
Description=Network of the emulator
Before=ssh.service
[Service]
Type=oneshot
ExecStart=/usr/sbin/modprobe virtio_pci
ExecStart=/usr/sbin/modprobe virtio_net
ExecStart=/usr/bin/ip link set lo up
ExecStart=/usr/bin/ip link set eth0 up
ExecStart=/usr/bin/ip address add 10.0.2.15/24 dev eth0
"""
# What the packages' own scripts would have done, which are not run: users, PAM, and that no key is made at boot.
NO_LOGIN = "/usr/sbin/nologin"
PASSWD = (
    f"messagebus:x:100:1001::/nonexistent:{NO_LOGIN}\nsshd:x:101:65534::/run/sshd:{NO_LOGIN}\n"
    f"{USER}:x:1000:1000::/home/{USER}:/bin/bash\n"
)
PERMIT = "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
SSHD = "HostKey /etc/ssh/key\nPermitRootLogin yes\nUsePAM no\nPasswordAuthentication no\nPidFile none\nUseDNS no\n"
SSH_SERVICE = (
    "[Service]\nRuntimeDirectory=sshd\nExecStart=/usr/sbin/sshd -D -e\n[Install]\nWantedBy=multi-user.target\n"
)


class MachineError(Exception):
    """The machine cannot be made, does not boot, or a command failed in it; the text says which."""


def write(path: Path, content: str, mode: int = 0o644) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)


def make(folder: Path) -> tuple[Path, Path]:
    """Kernel and initramfs of the machine in ``folder``, and the key that opens it; raises `rootfs.RootError`."""
    tree = folder / "tree"
    tree.mkdir(mode=0o755)
    rootfs.unpack("arm64", "bookworm", tree, KIND)
    for name in ("key", "host"):
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        rootfs.run(*command, doing="cannot make a key for ssh")
    kernel = folder / "vmlinuz"
    next((tree / "boot").glob("vmlinuz-*")).rename(kernel)
    shutil.rmtree(tree / "boot")
    _keep_modules(tree)
    _settle(tree, folder)
    initramfs = folder / "initramfs"
    with initramfs.open("wb") as out:
        names = subprocess.run(["find", ".", "-print0"], cwd=tree, check=True, capture_output=True).stdout
        command = ["cpio", "--null", "--create", "--format=newc", "--quiet"]
        subprocess.run(command, cwd=tree, input=names, stdout=out, check=True)
    shutil.rmtree(tree)
    return kernel, initramfs


def _keep_modules(tree: Path) -> None:
    """The few of the kernel's modules that are needed: memory is dear, and indexing all of them takes a minute."""
    modules = next((tree / "usr/lib/modules").iterdir())
    wanted = [modules / name for name in MODULES]
    for path in sorted(modules.rglob("*.ko")):
        if not any(path.is_relative_to(keep) for keep in wanted):
            path.unlink()
    rootfs.run(*rootfs.emulated(tree, "depmod", modules.name), doing="cannot index the kernel's modules")


def _settle(tree: Path, folder: Path) -> None:
    """Users, keys, network and sshd; a machine identity, without which systemd would enable everything there is."""
    write(tree / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    write(tree / "etc/hostname", "kitchen\n")
    write(tree / "etc/hosts", "127.0.0.1 localhost kitchen\n")
    with (tree / "etc/passwd").open("a") as users, (tree / "etc/group").open("a") as groups:
        users.write(PASSWD)
        groups.write(f"{USER}:x:1000:\nmessagebus:x:1001:\n")
    write(
        tree / "etc/shadow",
        "".join(f"{name}:*:19000:0:99999:7:::\n" for name in ("root", "sshd", "messagebus", USER)),
        0o640,
    )
    for name in ("auth", "account", "password", "session", "session-noninteractive"):
        write(
            tree / f"etc/pam.d/common-{name}", "".join(line + "\n" for line in PERMIT.splitlines() if name[:4] in line)
        )
    write(tree / f"etc/sudoers.d/{USER}", f"{USER} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    write(tree / "etc/ssh/sshd_config", SSHD)
    write(tree / "etc/ssh/key", (folder / "host").read_text(), 0o600)
    public = (folder / "key.pub").read_text()
    for home, user in (("root", 0), (f"home/{USER}", 1000)):
        write(tree / home / ".ssh/authorized_keys", public, 0o600)
        for path in (tree / home, *(tree / home).rglob("*")):
            shutil.chown(path, user, user)
        (tree / home).chmod(0o700)
    (tree / "usr/bin/awk").symlink_to("mawk")  # as Debian's alternatives have it
    units = tree / "etc/systemd/system"
    write(units / "test-network.service", NETWORK)
    write(units / "ssh.service", SSH_SERVICE)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    for name in ("test-network", "ssh"):
        (units / f"multi-user.target.wants/{name}.service").unlink(missing_ok=True)
        (units / f"multi-user.target.wants/{name}.service").symlink_to(f"../{name}.service")


@dataclass(frozen=True)
class Machine:
    """A booted machine; ``options`` are ssh's."""

    folder: Path
    options: tuple[str, ...]

    def run(self, script: str, codes: tuple[int, ...] = (0,), user: str = "root", stdin: bytes = b"") -> str:
        """Standard output of a shell script in it; raises `MachineError` when it fails."""
        command = ["ssh", *self.options, f"{user}@kitchen", f"sh -c {shlex.quote(script)}"]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=900)
        if done.returncode not in codes:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or ["no output"]
            raise MachineError(f"{script.strip().splitlines()[0][:100]}: {said[-1]}")
        return done.stdout.decode(errors="replace")

    def send(self, path: Path, target: str, user: str = "root") -> None:
        """Copy a file there."""
        self.run(f"cat > {shlex.quote(target)}", user=user, stdin=path.read_bytes())


@contextmanager
def booted(folder: Path, core: str = "cortex-a72", counting: bool = False, seconds: float = 600.0) -> Iterator[Machine]:
    """Make the machine, boot it, and wait for its sshd; raises `MachineError`, with its console in ``console``.

    With ``counting`` it has one core, and its clock goes on by one nanosecond with each instruction.
    """
    kernel, initramfs = make(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "ssh"
    host = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"kitchen {host[0]} {host[1]}\n")
    config.write_text(
        f"Host kitchen\nHostName 127.0.0.1\nPort {port}\nHostKeyAlias kitchen\nIdentityFile {folder}/key\n"
        f"UserKnownHostsFile {folder}/known\nIdentitiesOnly yes\nLogLevel ERROR\nConnectTimeout 60\n"
    )
    command = [
        *("qemu-system-aarch64", "-M", "virt", "-cpu", core, "-m", str(MEMORY_MB)),
        *(COUNTING if counting else FAST),
        *("-nographic", "-no-reboot", "-kernel", kernel, "-initrd", initramfs),
        *("-append", "console=ttyAMA0 rdinit=/sbin/init net.ifnames=0 quiet systemd.show_status=yes"),
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
    ]
    machine = Machine(folder, ("-F", str(config), "-o", f"ControlPath={folder}/%C", "-o", "ControlMaster=auto"))
    with (folder / "console").open("wb") as console:
        try:
            emulator = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        except FileNotFoundError as error:
            raise MachineError("qemu-system-aarch64 is not installed: apt-get install qemu-system-arm") from error
        try:
            _wait(machine, emulator, seconds)
            yield machine
        finally:
            emulator.kill()
            emulator.wait()


def _wait(machine: Machine, emulator: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and emulator.poll() is None:
        done = subprocess.run(
            ["ssh", *machine.options, "root@kitchen", "true"],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode == 0:
            return
        time.sleep(1.0)
    last = (machine.folder / "console").read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    raise MachineError(f"it does not boot within {seconds:.0f} s; the console's last line: {last[0]}")
