"""What quantising each layer costs by itself: every layer in turn is the only quantised one, on the real kernels.

``python -m convert.sensitivity SAVED_MODEL OUT.json MODE CLIPS.npz SIGNATURE…`` runs in a process of its own, like
`convert.child`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_stt.features import Floats

from .flatbuffer import WEIGHTED, Operator, TfliteFile, head_operators, layer_of, layer_operators

AUTO_SHARE = 0.2  # of the noise in the log-probabilities: layers that make more stay in float with `--keep-float auto`
TRIED_CLIPS = 8
FLOOR = float(np.log(1e-7))


@dataclass(frozen=True)
class LayerNoise:
    """One layer quantised alone. Ratios of signal to quantization noise, in dB: of its own output, of the model's.

    ``share`` is its part (0..1) of the sum of all layers' noise in the log-probabilities.
    """

    layer: str
    weights: int
    own_db: float
    output_db: float
    share: float


def layer_noise(
    content: bytes, clips: Sequence[Floats], alone: Callable[[str], bytes], heads: bool = True
) -> list[LayerNoise]:
    """Measure all layers of a float file, worst first; ``alone`` gives the file in which one layer is quantised.

    Without ``heads`` the heads are left out: the integer modes do not quantise them.
    """
    file = TfliteFile(content)
    layers: dict[str, Operator] = {}
    left_out = set() if heads else {(op.graph, op.index) for op in head_operators(file)}
    for op in file.operators(next(iter(file.graphs))):
        if op.name in WEIGHTED and (op.graph, op.index) not in left_out:
            layers.setdefault(layer_of(file.name(op.graph, op.outputs[0])), op)
    names = [file.name(op.graph, op.outputs[0]) for op in layers.values()]
    wanted = _run(content, clips, names)
    found = []
    for layer, op in layers.items():
        name = file.name(op.graph, op.outputs[0])
        got = _run(alone(layer), clips, [name])
        outputs = [key for key in wanted if key.startswith("output")]
        errors = [_error(wanted[key], got[key]) for key in outputs]
        own = _decibel(*_error(wanted[name], got[name])) if name in got else float("nan")
        signal, error = (sum(x) for x in zip(*errors, strict=True))
        found.append((layer, int(np.prod(file.shape(op.graph, op.inputs[1]))), own, _decibel(signal, error), error))
    total = sum(error for *_, error in found) or 1.0
    noises = [LayerNoise(layer, weights, own, db, error / total) for layer, weights, own, db, error in found]
    return sorted(noises, key=lambda noise: -noise.share)


def worst_layers(noises: Sequence[LayerNoise], share: float = AUTO_SHARE) -> tuple[str, ...]:
    """The layers that `--keep-float auto` keeps."""
    return tuple(noise.layer for noise in noises if noise.share >= share)


def _run(content: bytes, clips: Sequence[Floats], names: Sequence[str]) -> dict[str, Floats]:
    """Tensors of the offline graph by name, and its outputs floored at `FLOOR`, values of all clips in a row."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    (source,) = interpreter.get_input_details()
    details: dict[str, Any] = {}
    for detail in interpreter.get_tensor_details():
        if detail["name"] in names:
            details.setdefault(detail["name"], detail)
    outputs = {f"output {number}": detail for number, detail in enumerate(interpreter.get_output_details())}
    values: dict[str, list[Floats]] = {}
    for clip in clips:
        interpreter.resize_tensor_input(source["index"], (1, *clip.shape))
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], clip[None])
        interpreter.invoke()
        for name, detail in {**details, **outputs}.items():
            raw = interpreter.get_tensor(detail["index"]).astype(np.float32)
            scale, zero = detail["quantization"]
            real = (raw - zero) * np.float32(scale) if scale else raw
            values.setdefault(name, []).append(np.maximum(real, FLOOR).ravel() if name in outputs else real.ravel())
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _error(wanted: Floats, got: Floats) -> tuple[float, float]:
    """Power of the signal and of the noise."""
    return float((wanted.astype(np.float64) ** 2).sum()), float(((wanted - got).astype(np.float64) ** 2).sum())


def _decibel(signal: float, noise: float) -> float:
    return float(10.0 * np.log10(max(signal, 1e-12) / max(noise, 1e-12)))


def main() -> None:
    """Entry point of the child process."""
    from .child import from_saved_model, quantize_ranged, with_float_weights
    from .ranges import with_ranges

    saved_model, out, mode, calibration, *signatures = sys.argv[1:]
    with np.load(calibration) as file:
        clips = list(file.values())
    content = from_saved_model(Path(saved_model), "float32", signatures)
    if mode == "dynamic":
        dynamic = from_saved_model(Path(saved_model), "dynamic", signatures)
        layers = layer_names(content)

        def alone(layer: str) -> bytes:
            return with_float_weights(dynamic, content, [other for other in layers if other != layer])
    else:
        ranged = with_ranges(content, clips, 8 if mode == "int8" else 16)
        parsed = TfliteFile(ranged)

        def alone(layer: str) -> bytes:
            quantised = {(op.graph, op.index) for op in layer_operators(parsed, layer)}
            others = [op for graph in parsed.graphs for op in parsed.operators(graph)]
            names = [parsed.name(op.graph, op.outputs[0]) for op in others if (op.graph, op.index) not in quantised]
            return quantize_ranged(ranged, mode, names)

    noises = layer_noise(content, clips[:TRIED_CLIPS], alone, heads=mode == "dynamic")
    Path(out).write_text(json.dumps([asdict(noise) for noise in noises]))


def layer_names(content: bytes) -> list[str]:
    """The layers with weights, in the order they run."""
    file = TfliteFile(content)
    graph = next(iter(file.graphs))
    found = [layer_of(file.name(graph, op.outputs[0])) for op in file.operators(graph) if op.name in WEIGHTED]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    main()
