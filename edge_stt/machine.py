"""What this computer is, and the state it is in: processor, governor, temperatures, throttling.

All is read from files of the kernel, and from ``vcgencmd`` on a Raspberry Pi; what a machine does not tell is None.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

# Raspberry Pi documentation, vcgencmd get_throttled: bits of the present; 16 bits higher, what occurred since boot.
PI_FLAGS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


@dataclass(frozen=True)
class Machine:
    """What does not change while it runs."""

    cpu: str
    cores: int
    memory_mb: int | None
    board: str | None
    system: str
    python: str


@dataclass(frozen=True)
class Condition:
    """The state at one moment. ``throttle_events`` counts since boot (x86); ``pi_flags`` is vcgencmd's number."""

    governor: str | None
    mhz: int | None
    temperatures: dict[str, float] = field(default_factory=dict)
    load: float | None = None
    throttle_events: int | None = None
    pi_flags: int | None = None

    @property
    def hottest(self) -> float | None:
        """Degrees Celsius of the hottest zone."""
        return max(self.temperatures.values(), default=None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def machine(root: Path = Path("/")) -> Machine:
    """This computer; ``root`` is where its ``proc`` and ``sys`` lie."""
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    found = re.search(r"^(?:model name|Model Name)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    cpu = found[1].strip() if found else _arm_core(cpuinfo) or platform.processor() or platform.machine()
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo") or "", re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cpu,
        cores,
        int(memory[1]) // 1024 if memory else None,
        _read(root / "proc/device-tree/model"),
        f"{platform.system()} {platform.release()} {platform.machine()}",
        platform.python_version(),
    )


def _arm_core(cpuinfo: str) -> str | None:
    """Linux on 64-bit ARM tells part numbers alone; these are the cores of the Raspberry Pis (ARM's MIDR tables)."""
    parts = {"0xd03": "Cortex-A53", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76", "0xc07": "Cortex-A7"}
    found = re.search(r"^CPU part\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)
    return parts.get(found[1].lower(), f"ARM part {found[1]}") if found else None


def condition(root: Path = Path("/")) -> Condition:
    """The state now."""
    cpus = root / "sys/devices/system/cpu"
    frequency = _number(_read(cpus / "cpu0/cpufreq/scaling_cur_freq"))
    load = (_read(root / "proc/loadavg") or "").split()
    counts = [_number(_read(p)) for p in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    known = [count for count in counts if count is not None]
    return Condition(
        _read(cpus / "cpu0/cpufreq/scaling_governor"),
        frequency // 1000 if frequency is not None else None,
        _temperatures(root / "sys/class/thermal"),
        float(load[0]) if load else None,
        sum(known) if known else None,
        pi_throttling(),
    )


def _temperatures(folder: Path) -> dict[str, float]:
    zones = {}
    for zone in sorted(folder.glob("thermal_zone*")):
        value = _number(_read(zone / "temp"))
        if value is not None:
            zones[_read(zone / "type") or zone.name] = value / 1000
    return zones


def pi_throttling() -> int | None:
    """The number of ``vcgencmd get_throttled``, None where there is no such command or it fails."""
    command = shutil.which("vcgencmd")
    if command is None:
        return None
    try:
        done = subprocess.run([command, "get_throttled"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"throttled=(0x[0-9a-fA-F]+)", done.stdout)
    return int(found[1], 16) if found else None


def pi_flag_names(flags: int) -> list[str]:
    """What the bits say; ``… (since boot)`` for what is over."""
    now = [name for bit, name in PI_FLAGS.items() if flags >> bit & 1]
    past = [f"{name} (since boot)" for bit, name in PI_FLAGS.items() if flags >> (bit + 16) & 1 and name not in now]
    return now + past


def throttling_between(before: Condition, after: Condition) -> list[str]:
    """Why figures taken between the two are not those of an undisturbed machine; nothing when all was well."""
    warnings = []
    events = (after.throttle_events or 0) - (before.throttle_events or 0)
    if events > 0:
        warnings.append(f"the processor was throttled {events} times")
    if after.pi_flags:
        new = after.pi_flags & ~(before.pi_flags or 0)
        during = [n for bit, n in PI_FLAGS.items() if (new >> (bit + 16) | after.pi_flags >> bit) & 1]
        if during:
            warnings.append("the board reports " + ", ".join(during))
    if before.load is not None and before.load > 0.5 * (os.cpu_count() or 1):
        warnings.append(f"other work was running at the start (load {before.load:.1f}): times are upper bounds")
    return warnings
