"""Run a command of another processor's file system, by qemu-user, without changing anything of this machine.

Usage: emulate.py ROOT COMMAND…   runs COMMAND, as root, with ROOT as its file system. Needs root and Debian's
qemu-user-static. Namespaces of its own hold the mounts and, from Linux 6.7 on, the registration of qemu (binfmt_misc);
an older kernel must know qemu already: Debian's binfmt-support does that. QEMU_CPU names the core that is emulated:
cortex-a53 is a Raspberry Pi 3's, cortex-a72 a Raspberry Pi 4's (and the one without it), cortex-a76 a Raspberry Pi 5's.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x0002_0000, 0x1000_0000, 0x2000_0000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x4_0000  # linux/mount.h
REGISTRATIONS = tuple(Path(f"/usr/lib/binfmt.d/{name}.conf") for name in ("qemu-aarch64", "qemu-arm"))
BINFMT = Path("/proc/sys/fs/binfmt_misc")
# Not qemu's default, which has all there is: under its SVE (7.2), which no Raspberry Pi has, XNNPACK computes nonsense.
CORE = "cortex-a72"
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, doing: str) -> None:
    if result:
        sys.exit(f"emulate: {doing}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str, flags: int = 0) -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), flags, None)
    _check(result, f"cannot mount {source} on {target}")


def _enter_namespaces() -> None:
    """A user namespace with the same 65,536 users, and mounts and processes of its own; returns in a child of it."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):  # from outside: a process cannot give itself more than one user
            Path(f"/proc/{child}/{name}").write_text("0 0 65536\n")
        os.write(go[1], b".")
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID), "no namespaces may be made here")
    os.write(ready[1], b".")
    os.read(go[0], 1)
    os.setgid(0)
    os.setuid(0)
    first = os.fork()  # the process namespace begins with a child
    if first:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) % 256)


def _register_qemu() -> None:
    """Tell this namespace's kernel interface what runs ARM programs."""
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("proc", "/proc", "proc")
    try:
        _mount("binfmt_misc", str(BINFMT), "binfmt_misc")
        for rule in REGISTRATIONS:
            if not (BINFMT / rule.stem).exists():
                (BINFMT / "register").write_text(rule.read_text(encoding="ascii").strip(), encoding="ascii")
    except OSError as error:
        sys.exit(f"emulate: {error.filename or BINFMT}: {error.strerror}; apt-get install qemu-user-static")


def _make_sys(root: Path) -> None:
    """A /sys that tells how many processors there are, and no more.

    With the one of this machine, ai-edge-litert crashes; without the number, XNNPACK stays off, and other kernels,
    which round differently, compute instead.
    """
    (root / "sys").mkdir(exist_ok=True)
    _mount("none", f"{root}/sys", "tmpfs")
    cpus = root / "sys" / "devices" / "system" / "cpu"
    cpus.mkdir(parents=True)
    for name in ("possible", "present"):
        (cpus / name).write_text("0-3\n", encoding="ascii")


def main() -> None:
    """Enter the namespaces, mount what a program needs, become the command."""
    root, *command = sys.argv[1:]
    _enter_namespaces()
    _register_qemu()
    for name in ("proc", "dev"):
        (Path(root) / name).mkdir(exist_ok=True)
        _mount(f"/{name}", f"{root}/{name}", "", MS_BIND | MS_REC)
    _make_sys(Path(root))
    os.chroot(root)
    os.chdir("/root" if Path("/root").is_dir() else "/")
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    if Path("/usr/lib/aarch64-linux-gnu").is_dir():
        environment["QEMU_CPU"] = os.environ.get("QEMU_CPU", CORE)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        sys.exit(f"emulate: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
