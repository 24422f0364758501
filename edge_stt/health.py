"""Does this installation work? Checks of one line each; `edge-stt doctor` prints them.

A check that cannot be made here (no microphone library, no systemd) is a note, not a failure: much works without.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from .audio import read_audio
from .capture_process import list_devices
from .errors import EdgeSttError, RuntimeMissingError, printable
from .interpreter import RUNTIMES, AcousticModel, find_runtime
from .machine import condition, machine, pi_flag_names
from .package import ModelPackage
from .recogniser import Transcriber, default_model

DEMO_CLIP = Path(__file__).parent / "data" / "demo.opus"
GOLDEN_TOLERANCE = 0.05  # mean |difference| of log-probabilities; int8 kernels differ a little between processors
HOT = 80.0  # degrees Celsius; a Raspberry Pi slows down from here on


@dataclass(frozen=True)
class Unit:
    """A service of systemd (``scope``: ``system`` or ``user``), and what makes it run where it does not."""

    check: str
    scope: str
    name: str
    start: str = "systemctl start it when it should run"

    @property
    def journal(self) -> str:
        """Arguments of journalctl for what it said."""
        return ("--user " if self.scope == "user" else "") + f"-u {self.name}"


UNITS = (
    Unit("system service", "system", "edge-stt.service"),
    Unit("user service", "user", "edge-stt-user.service"),
    Unit(
        "Wyoming service",
        "system",
        "edge-stt-wyoming.service",
        "its first client starts it, where edge-stt-wyoming.socket is enabled",
    ),
)


@dataclass(frozen=True)
class Check:
    """Result of one check; ``fix`` says what to do. ``note``: nothing is wrong, but something is not there."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    note: bool = False


class NoteError(Exception):
    """Raised by a check that has something to tell, but nothing to complain of."""

    def __init__(self, detail: str, fix: str = "") -> None:
        super().__init__(detail)
        self.fix = fix


def run_checks(model: Path | None, seconds: float) -> list[Check]:
    """All checks in order; one that fails does not stop the others, but for those that build on it.

    Without a ``model``, of the active one.
    """
    checks = [
        _guarded("Python", _python, "use Python 3.11 to 3.13"),
        _guarded("TFLite runtime", _runtime, "pip install ai-edge-litert"),
        _guarded("numpy", _numpy, "pip install 'numpy<2' beside tflite-runtime, or pip install ai-edge-litert"),
        _guarded(
            "model package",
            lambda: _package(model or default_model()),
            "install the package again, or name another with --model",
        ),
    ]
    if all(check.ok for check in checks):
        model = model or default_model()
        checks.append(_guarded("golden pair", lambda: golden_check(model), "get a package made for this runtime"))
        checks.append(
            _guarded("demo clip", lambda: _demo(model, seconds), "choose a smaller model, or see what else is running")
        )
    checks += [
        _guarded("microphones", _microphones, "see docs, and `arecord -l` for what the system finds"),
        *(_guarded(unit.check, partial(_service, unit), f"journalctl {unit.journal} says why") for unit in UNITS),
        _guarded("throttling", _throttling, "cool the processor; on a Raspberry Pi use its own power supply"),
    ]
    return checks


def _guarded(name: str, check: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, True, check())
    except NoteError as note:
        return Check(name, True, str(note), note.fix, note=True)
    except EdgeSttError as error:
        return Check(name, False, printable(str(error)), fix)
    except Exception as error:  # a check must not bring down the others
        return Check(name, False, f"{type(error).__name__}: {error}".splitlines()[0], fix)


def _python() -> str:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise EdgeSttError(f"Python {platform.python_version()} is not supported")
    here = machine()
    return f"{platform.python_version()}, {here.board or here.cpu}, {here.system}"


def _runtime() -> str:
    """The runtime that is used, and what became of the others."""
    chosen = find_runtime()
    wanted = os.environ.get("EDGE_STT_RUNTIME")
    others = [f"{name} {_state_of_runtime(name)}" for name in RUNTIMES if name != chosen.name]
    why = "EDGE_STT_RUNTIME asks for it" if wanted else f"first of {', '.join(RUNTIMES)} that loads"
    return f"{chosen.name} {chosen.version} ({why}; {', '.join(others)})"


def _state_of_runtime(name: str) -> str:
    try:
        return f"{importlib.metadata.version(name)} is installed too"
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"


def _numpy() -> str:
    """tflite-runtime is built for numpy 1 and fails with 2, in words that name neither."""
    try:
        old = importlib.metadata.version("tflite-runtime")
    except importlib.metadata.PackageNotFoundError:
        return f"{np.__version__}"
    if int(np.__version__.split(".")[0]) < 2:
        return f"{np.__version__}, fits tflite-runtime {old}"
    try:
        if find_runtime().name != "tflite-runtime":
            return f"{np.__version__}; too new for tflite-runtime {old}, which is not used"
    except RuntimeMissingError:
        pass
    raise EdgeSttError(f"numpy {np.__version__} does not go with tflite-runtime {old}")


def _package(model: Path) -> str:
    package = ModelPackage.load(model)
    info = package.info
    return f"{info.name}, {info.quantization}, {package.size / 1e6:.1f} MB, {len(package.files)} files verified"


def golden_check(model: Path) -> str:
    """Run the golden input; raises `EdgeSttError` when the outputs are not what the package says they must be."""
    package = ModelPackage.load(model)
    golden = package.golden()
    out = AcousticModel(package).offline(golden["log_mel"][0])
    worst, agreement = 0.0, 1.0
    for head, log_probs in out.items():
        expected = golden[head][0]
        if log_probs.shape != expected.shape:
            raise EdgeSttError(f"head {head}: the shape is {log_probs.shape}, not {expected.shape}")
        worst = max(worst, float(np.abs(log_probs - expected).mean()))
        agreement = min(agreement, float((log_probs.argmax(-1) == expected.argmax(-1)).mean()))
    if worst > GOLDEN_TOLERANCE or agreement < 0.97:
        raise EdgeSttError(
            f"outputs differ from the golden ones: mean |Δ log p| {worst:.3f}, agreement {agreement:.3f}"
        )
    return f"mean |Δ log p| {worst:.1e}, argmax agreement {agreement:.3f}"


def _demo(model: Path, seconds: float) -> str:
    """Transcribe the demo clip over and over for ``seconds``: text, and speed as it is once the processor is warm."""
    transcriber = Transcriber(ModelPackage.load(model))
    samples = read_audio(DEMO_CLIP)
    duration = len(samples) / transcriber.info.front_end.sample_rate
    text = transcriber.transcribe(samples).text
    if not text:
        raise EdgeSttError("no words came out")
    times: list[float] = []
    started = time.perf_counter()
    while not times or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        transcriber.transcribe(samples)
        times.append(time.perf_counter() - before)
    rtf = median(times) / duration
    if rtf >= 1.0:
        raise EdgeSttError(f"slower than speech: {median(times):.1f} s for {duration:.1f} s of audio (RTF {rtf:.2f})")
    return f"“{text}” ({len(times)} times in {sum(times):.1f} s, median RTF {rtf:.4f}; below 1 is faster than speech)"


def _microphones() -> str:
    try:
        devices = list_devices()
    except RuntimeMissingError as error:
        raise NoteError(
            "not looked for: PyAudio is not installed", "for a microphone, pip install 'edge-stt[mic]'"
        ) from error
    if not devices:
        raise NoteError("none found", "plug one in; a service's user must be in the group audio")
    return "; ".join(f"{device['name']} ({device['rate']} Hz, {device['channels']} channels)" for device in devices)


def _service(unit: Unit) -> str:
    if not Path("/run/systemd/system").is_dir():
        raise NoteError("systemd does not run here")
    command = [shutil.which("systemctl") or "systemctl", f"--{unit.scope}", "show", unit.name]
    properties = ["-p", "LoadState,ActiveState,SubState,NRestarts,Result,StatusText"]
    try:
        done = subprocess.run([*command, *properties], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoteError(f"systemctl does not answer ({error})") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise NoteError(f"systemctl does not tell: {lines[-1]}")
    return describe_unit(done.stdout, unit.start)


def describe_unit(shown: str, start: str = "") -> str:
    """What ``systemctl show`` says of a unit; raises `EdgeSttError` when the unit is in trouble.

    A `NoteError` tells of one that does not run, and how to ``start`` it.
    """
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if state.get("LoadState") == "not-found":
        raise NoteError("not installed")
    if state.get("LoadState") not in ("loaded", "masked"):
        raise EdgeSttError(f"the unit does not load ({state.get('LoadState', 'unknown')})")
    restarts = int(state.get("NRestarts") or 0)
    active = f"{state.get('ActiveState', 'unknown')} ({state.get('SubState', 'unknown')})"
    if state.get("ActiveState") == "failed" or state.get("SubState") == "auto-restart":
        raise EdgeSttError(f"{active}, result {state.get('Result', 'unknown')}, restarted {restarts} times")
    if state.get("ActiveState") != "active":
        raise NoteError(active, start)
    status = f": {state['StatusText']}" if state.get("StatusText") else ""
    return f"{active}, restarted {restarts} times{status}"


def _throttling() -> str:
    now = condition()
    parts = [f"governor {now.governor}"] if now.governor else []
    if now.mhz:
        parts.append(f"{now.mhz} MHz")
    if now.hottest is not None:
        parts.append(f"{now.hottest:.0f} °C")
    flags = pi_flag_names(now.pi_flags or 0)
    if any("since boot" not in flag for flag in flags) or (now.hottest or 0.0) >= HOT:
        raise EdgeSttError(", ".join([*flags, *parts]))
    if flags:
        raise NoteError(", ".join([*flags, *parts]), "use a stronger power supply, or cool the processor")
    if not parts and now.throttle_events is None and now.pi_flags is None:
        raise NoteError("this machine does not tell temperatures or throttling")
    return ", ".join(["none", *parts])
