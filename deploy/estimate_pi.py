"""Estimate the time of a second of speech on a Raspberry Pi 4 and 5. No Raspberry Pi was measured for it.

Multiplications and weights are counted in the .tflite file, by operator: they bound the time from below, by what a core
can multiply and what memory can deliver. Instructions are counted in emulated cores, Cortex-A72 and A76, whose clock
goes on by one nanosecond with each (qemu's -icount): front end, network, and decoder, on the demo clip. Instructions
over the clock frequency, and over the instructions that a core completes in a cycle, give seconds. That last number is
what nobody knows without the machine: a range is taken for it, and it is the range of the result.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import build_deb
import rootfs
import vm

if TYPE_CHECKING:
    from edge_stt.package import ModelPackage

MODEL = rootfs.ROOT / "edge_stt" / "models" / "default"


@dataclass(frozen=True)
class Board:
    """A board's core, by qemu's name. ``per_cycle``: instructions completed in a cycle, least and most that is likely.

    ``macs``: 8-bit multiplications in a cycle (ARM's software optimization guides: on A72 one SMLAL of 8 lanes, on A76
    two SDOT of 16). ``memory``: bytes per second that one core reads, an assumption.
    """

    name: str
    core: str
    hertz: float
    per_cycle: tuple[float, float]
    macs: int
    memory: float


BOARDS = (
    Board("Raspberry Pi 4 (Cortex-A72, 1.8 GHz)", "cortex-a72", 1.8e9, (0.7, 1.8), 8, 4e9),
    Board("Raspberry Pi 5 (Cortex-A76, 2.4 GHz)", "cortex-a76", 2.4e9, (1.2, 3.0), 32, 8e9),
)

COUNT = """
import json, time
import numpy as np
from edge_stt.audio import read_audio
from edge_stt.features import log_mel, normalise_utterance
from edge_stt.health import DEMO_CLIP
from edge_stt.recogniser import load_model
began = time.perf_counter_ns()
models = {decoder: load_model(decoder=decoder) for decoder in ("greedy", "lexicon")}
loading = time.perf_counter_ns() - began
model = models["greedy"]
audio = read_audio(DEMO_CLIP)
frames = normalise_utterance(log_mel(audio, model.info.front_end), model.info.statistics, model.info.normalization)
probabilities = {name: model.acoustic.offline(frames)[model.head] for name, model in models.items()}
def stream():
    stream = model.acoustic.stream()
    stream.accept(frames)
    stream.finish()
work = {
    "front end": lambda: log_mel(audio, model.info.front_end),
    "network, whole": lambda: model.acoustic.offline(frames),
    "network, stream": stream,
    "greedy": lambda: models["greedy"].decode(probabilities["greedy"]),
    "lexicon": lambda: models["lexicon"].decode(probabilities["lexicon"]),
}
counts = {}
for name, function in work.items():
    function()
    began = time.perf_counter_ns()
    function()
    counts[name] = (time.perf_counter_ns() - began) / (len(audio) / 16000)
print(json.dumps({"seconds": len(audio) / 16000, "loading": loading, "counts": counts}))
"""


def operations(package: ModelPackage) -> dict[str, tuple[float, int]]:
    """Multiplications per second of audio, and bytes of weights, by operator of the ``offline`` signature.

    Of a convolution each weight is used once in each frame that comes out. Strides halve the frames that come in, until
    there are as many as the model gives out.
    """
    from convert.flatbuffer import WEIGHTED, TfliteFile
    from edge_stt.package import MODEL_FILE

    file = TfliteFile(package.read(MODEL_FILE))
    signature = next(s for s in file.model.signatureDefs if s.signatureKey in (b"offline", "offline"))
    graph = list(file.graphs)[signature.subgraphIndex]
    rate, least = (
        package.info.front_end.frames_per_second,
        package.info.front_end.frames_per_second / package.info.stride,
    )
    found: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for op in file.operators(graph):
        if op.name not in WEIGHTED or len(op.inputs) < 2 or file.data(graph, op.inputs[1]) is None:
            continue
        options = file.graphs[graph].operators[op.index].builtinOptions
        rate = max(least, rate / max(getattr(options, "strideW", 1), getattr(options, "strideH", 1)))
        shape = file.shape(graph, op.inputs[1])
        weights = 1
        for size in shape:
            weights *= size
        macs, size = found[op.name]
        data = file.data(graph, op.inputs[1])
        found[op.name] = (macs + weights * rate, size + (0 if data is None else len(data)))
    return dict(found)


def count(deb: Path, core: str) -> dict[str, float]:
    """Instructions per second of audio, by what they are for, and those of loading."""
    name = tempfile.TemporaryDirectory(prefix="edge-stt-estimate-")
    with name, vm.booted(Path(name.name), core, counting=True) as machine:
        machine.send(deb, "/root/edge-stt.deb")
        machine.run("dpkg-deb -x /root/edge-stt.deb /")
        told = json.loads(machine.run(f"/{build_deb.LIBRARY}/bin/python3 -I -", stdin=COUNT.encode()))
    return {**told["counts"], "loading": told["loading"]}


def seconds(board: Board, instructions: float) -> tuple[float, float]:
    """Least and most time for so many instructions."""
    low, high = board.per_cycle
    return instructions / board.hertz / high, instructions / board.hertz / low


def estimate(board: Board, counts: dict[str, float], package: ModelPackage, macs: float, size: int) -> list[str]:
    """Lines for a board: real-time factors, and what bounds them from below."""
    lines = [f"{board.name}: an ESTIMATE"]
    millions = [f"{name} {instructions / 1e6:.1f}" for name, instructions in counts.items() if name != "loading"]
    lines.append(f"  million instructions a second of audio: {', '.join(millions)}")
    chunks = 1.0
    if package.info.stream is not None:
        chunks = package.info.front_end.frames_per_second / package.info.stream.chunk_frames
    bound = max(macs / board.hertz / board.macs, size * chunks / board.memory)
    for mode, decoder in (("whole", "greedy"), ("whole", "lexicon"), ("stream", "lexicon")):
        low, high = seconds(board, counts["front end"] + counts[f"network, {mode}"] + counts[decoder])
        lines.append(f"  {mode}, {decoder}: RTF {low:.3f} to {high:.3f}")
    low, high = seconds(board, counts["loading"])
    lines.append(f"  loading two models, Python's own start not counted: {low:.1f} to {high:.1f} s")
    lines.append(f"  the stream's lower bound from multiplications and memory: RTF {bound:.4f}")
    return lines


def main() -> None:
    """Count, estimate, print."""
    parser = argparse.ArgumentParser(prog="estimate-pi", description="Estimate what speech costs on a Pi 4 and 5.")
    parser.add_argument("--operations", action="store_true", help="only what is in the model: nothing is emulated")
    parser.add_argument("--deb", type=Path, help="arm64 package for bookworm; without it, built from the last commit")
    arguments = parser.parse_args()
    sys.path.insert(0, str(rootfs.ROOT))
    try:
        from edge_stt.errors import EdgeSttError
        from edge_stt.package import ModelPackage
    except ImportError as error:
        sys.exit(f"estimate-pi: {error}: run it with PYTHON of an environment that has edge-stt")
    try:
        package = ModelPackage.load(MODEL)
        found = operations(package)
        for name, (macs, size) in found.items():
            print_line(
                f"{name}: {macs / 1e6:.1f} million multiplications a second of audio, {size / 1e6:.2f} MB of weights"
            )
        if arguments.operations:
            return
        macs, size = (sum(values) for values in zip(*found.values(), strict=True))
        with tempfile.TemporaryDirectory(prefix="edge-stt-estimate-") as name:
            target = build_deb.Target("arm64", build_deb.SUITES["bookworm"], "ai-edge-litert")
            deb = arguments.deb or build_deb.build(target, Path(name))
            for board in BOARDS:
                counts = count(deb, board.core)
                for line in estimate(board, counts, package, macs, int(size)):
                    print_line(line)
    except (vm.MachineError, build_deb.BuildError, rootfs.RootError, EdgeSttError, OSError) as error:
        sys.exit(f"estimate-pi: {error}")


def print_line(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
