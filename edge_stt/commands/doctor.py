"""``edge-stt doctor``: does this installation work? One line a check, with what to do about it."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..errors import EdgeSttError
from ..interpreter import AcousticModel, find_runtime
from ..package import ModelPackage
from ..recogniser import DEFAULT_MODEL, Transcriber

DEMO_CLIP = Path(__file__).parent.parent / "data" / "demo.opus"
GOLDEN_TOLERANCE = 0.05  # mean |difference| of log-probabilities; int8 kernels differ a little between processors


@dataclass(frozen=True)
class Check:
    """Result of one check; ``fix`` says what to do when ``ok`` is False."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


def doctor(
    model: Annotated[Path | None, typer.Option(help="Model package to check; without it, the default one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of lines.")] = False,
) -> None:
    """Check Python, the TFLite runtime, the model package and a transcription of the demo clip."""
    checks = run_checks(model or DEFAULT_MODEL)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
            if not check.ok and check.fix:
                typer.echo(f"     → {check.fix}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def run_checks(model: Path) -> list[Check]:
    """All checks in order; one that fails does not stop the others."""
    checks = [
        _guarded("Python", _python, "use Python 3.11 to 3.13"),
        _guarded("TFLite runtime", _runtime, "pip install ai-edge-litert"),
        _guarded("model package", lambda: _package(model), "install the package again"),
    ]
    if all(check.ok for check in checks):
        checks.append(_guarded("golden pair", lambda: golden_check(model), "get a package made for this runtime"))
        checks.append(_guarded("demo clip", lambda: _demo(model), "install the package again"))
    return checks


def _guarded(name: str, check: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, True, check())
    except EdgeSttError as error:
        return Check(name, False, str(error), fix)


def _python() -> str:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise EdgeSttError(f"Python {platform.python_version()} is not supported")
    return f"{platform.python_version()}, numpy {np.__version__}, {platform.machine()} {platform.system()}"


def _runtime() -> str:
    runtime = find_runtime()
    return f"{runtime.name} {runtime.version}"


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


def _demo(model: Path) -> str:
    transcriber = Transcriber(ModelPackage.load(model))
    started = time.perf_counter()
    result = transcriber.transcribe(DEMO_CLIP)
    elapsed = time.perf_counter() - started
    if not result.text:
        raise EdgeSttError("no words came out")
    return f"“{result.text}” (RTF {elapsed / result.duration:.4f})"
