"""Does a package run where it claims to? Its golden input on other runtimes, in environments of their own.

``python -m convert.prove PACKAGE OUT.npz`` is what runs there: it needs numpy and a TFLite runtime, no TensorFlow.
`prove` starts it and compares what comes back with the package's golden output.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_stt.errors import EdgeSttError
from edge_stt.interpreter import AcousticModel
from edge_stt.package import ModelPackage, write_package

ROOT = Path(__file__).parent.parent
TFLITE_ENVIRONMENT = ROOT / ".venv-tflite" / "bin" / "python"  # deploy/run-tests makes it


@dataclass(frozen=True)
class Tolerance:
    """What another runtime may differ by: kernels round differently, and dynamic ranges are chosen by the kernel."""

    agreement: float = 0.98
    mean_difference: float = 0.1
    stream_agreement: float = 0.9  # some seconds only: the gate has measured how well it agrees


# Integer kernels of tflite-runtime 2.14 differ from those of ai-edge-litert 2.3 about as much as int8 does from float
# (mean 0.06 of 0.08), which moves the likeliest unit in more frames.
INT8 = Tolerance(agreement=0.95)


@dataclass(frozen=True)
class Proof:
    """One runtime on the golden input: offline against the stored output, and streaming against offline."""

    runtime: str
    agreement: float
    max_difference: float
    mean_difference: float
    stream_agreement: float | None
    seconds: float

    def to_data(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)


def interpreters(extra: Sequence[str] = ()) -> list[str]:
    """Commands that start Python where a package is proved: this one, and those given or else that of the tests."""
    found = [str(TFLITE_ENVIRONMENT)] if TFLITE_ENVIRONMENT.exists() and not extra else []
    return [sys.executable, *extra, *found]


def prove(package: ModelPackage, python: str, tolerance: Tolerance | None = None) -> Proof:
    """Run the golden input with the Python of that name (a command, perhaps with arguments).

    Raises `EdgeSttError` when it does not run there, or gives something else.
    """
    tolerance = tolerance or (INT8 if package.info.quantization == "int8" else Tolerance())
    with tempfile.TemporaryDirectory(prefix="edge-stt-proof-") as folder:
        out = Path(folder) / "out.npz"
        command = [*python.split(), "-m", "convert.prove", str(package.path.resolve()), str(out)]
        try:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        except OSError as error:
            raise EdgeSttError(f"cannot run {python}: {error.strerror or error}") from error
        if done.returncode or not out.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = (
                f"signal {-done.returncode}" if done.returncode < 0 else (lines[-1] if lines else "no reason given")
            )
            raise EdgeSttError(f"{package.path} does not run under {python}: {reason}")
        with np.load(out) as file:
            outputs = {name: file[name] for name in file.files}
    facts = json.loads(str(outputs.pop("facts")))
    proof = _compare(package, outputs, facts["runtime"], facts["seconds"])
    if proof.agreement < tolerance.agreement or proof.mean_difference > tolerance.mean_difference:
        raise EdgeSttError(
            f"{package.path} gives something else on {proof.runtime}: {100 * proof.agreement:.1f} % of frames agree, "
            f"mean |Δ log p| {proof.mean_difference:.3f}"
        )
    if proof.stream_agreement is not None and proof.stream_agreement < tolerance.stream_agreement:
        raise EdgeSttError(
            f"{package.path} streams something else on {proof.runtime} than it gives offline: "
            f"{100 * proof.stream_agreement:.1f} % of frames agree"
        )
    return proof


def prove_package(package: ModelPackage, pythons: Sequence[str]) -> list[Proof]:
    """`prove` with each Python in turn."""
    return [prove(package, python) for python in pythons]


def record_runtimes(package: ModelPackage, proofs: Sequence[Proof]) -> ModelPackage:
    """Write the runtimes of proofs into the package, beside those it has."""
    runtimes = tuple(dict.fromkeys((*package.info.runtimes, *(proof.runtime for proof in proofs))))
    files = {name: package.read(name) for name in package.files}
    return write_package(package.path, replace(package.info, runtimes=runtimes), files, overwrite=True)


def _compare(package: ModelPackage, outputs: dict[str, Any], runtime: str, seconds: float) -> Proof:
    golden = package.golden()
    floor = np.log(1e-7)
    agreements, differences, streamed = [], [], []
    for head in package.info.heads:
        want, got = np.maximum(golden[head][0], floor), np.maximum(outputs[head], floor)
        agreements.append(float((want.argmax(axis=1) == got.argmax(axis=1)).mean()))
        differences.append(np.abs(want - got))
        if f"stream/{head}" in outputs:
            stream = outputs[f"stream/{head}"]
            streamed.append(float((stream.argmax(axis=1) == got.argmax(axis=1)).mean()))
    return Proof(
        runtime,
        min(agreements),
        max(float(d.max()) for d in differences),
        max(float(d.mean()) for d in differences),
        min(streamed) if streamed else None,
        seconds,
    )


def main() -> None:
    """What runs in the other environment."""
    import time

    package = ModelPackage.load(sys.argv[1])
    start = time.perf_counter()
    acoustic = AcousticModel(package)
    frames = package.golden()["log_mel"][0]
    outputs = dict(acoustic.offline(frames))
    if package.info.stream is not None:
        stream = acoustic.stream()
        first, last = stream.accept(frames), stream.finish()
        outputs |= {f"stream/{head}": np.concatenate([first[head], last[head]]) for head in first}
    facts = {
        "runtime": f"{acoustic.runtime.name} {acoustic.runtime.version} ({platform.machine()})",
        "seconds": time.perf_counter() - start,
    }
    arrays: dict[str, Any] = {"facts": np.array(json.dumps(facts)), **outputs}
    np.savez(sys.argv[2], **arrays)


if __name__ == "__main__":
    main()
