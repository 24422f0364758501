"""Ranges of activations for integer quantization: measured on real speech, the same in both signatures.

TensorFlow's own calibration takes the smallest and the largest value ever seen, in each signature for itself. A rare
loud value then costs every other one its precision, and `offline` and `stream` round differently. Here the range of
each activation is the one that loses least when its values are rounded and cut (mean squared error, as in R. Banner et
al., "Post training 4-bit quantization of convolutional networks for rapid-deployment", NeurIPS 2019), and activations
that are computed from the same weights share one range.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_stt.errors import DataError
from edge_stt.features import Floats

from .flatbuffer import Operator, TfliteFile, head_operators

# Operators that hand on values as they are; MUL is one when it masks.
PASSING = frozenset(
    (
        "RESHAPE",
        "PAD",
        "PADV2",
        "EXPAND_DIMS",
        "SQUEEZE",
        "STRIDED_SLICE",
        "CONCATENATION",
        "TRANSPOSE",
        "REVERSE_V2",
        "PACK",
        "UNPACK",
    )
)
SAMPLES_PER_CLIP = 4_000
STEPS = tuple(float(step) for step in np.linspace(0.2, 1.0, 33))
Range = tuple[float, float]


@dataclass
class Observed:
    """The values of one activation: extremes, and samples."""

    low: float = 0.0
    high: float = 0.0
    samples: list[Floats] = field(default_factory=list)

    def add(self, values: Floats, rng: np.random.Generator) -> None:
        """Take in the activation's values on one clip."""
        flat = values.reshape(-1)
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.samples.append(flat[rng.integers(len(flat), size=min(len(flat), SAMPLES_PER_CLIP))])


def best_range(observed: Observed, bits: int) -> Range:
    """The range whose rounding and cutting cost least mean squared error; it includes zero."""
    values = np.concatenate(observed.samples).astype(np.float32)
    low, high = observed.low, observed.high
    if high <= low:
        return -1.0, 1.0
    if (
        bits > 8
    ):  # fine enough to hold the extremes; and the kernels want the zero point at 0, so -32768 is that much lower
        largest = max(-low, high)
        return -largest * 2 ** (bits - 1) / (2 ** (bits - 1) - 1), largest
    for _ in range(2):
        low = min((step * observed.low for step in STEPS), key=lambda x: _error(values, x, high, bits))
        high = min((step * observed.high for step in STEPS), key=lambda x: _error(values, low, x, bits))
    return low, high


def _error(values: Floats, low: float, high: float, bits: int) -> float:
    step = max(high - low, 1e-9) / (2**bits - 1)
    rounded = np.round((np.clip(values, low, high) - low) / step) * step + low
    return float(((values - rounded) ** 2).mean())


def identities(file: TfliteFile, graph: str) -> dict[int, Hashable]:
    """What each float activation of a graph is, by the weights it was computed with: equal in both signatures."""
    ids: dict[int, Hashable] = {}
    masks: set[int] = set()
    operators = list(file.operators(graph))
    for index in file.graphs[graph].inputs:
        if file.name(graph, int(index)).split(":")[0].endswith("log_mel"):
            ids[int(index)] = "log_mel"
    for op in operators:
        if op.name == "CAST":
            masks.update(op.outputs)
            ids.update({i: "mask" for i in op.outputs if file.type(graph, i) == "FLOAT32"})
            continue
        known = [ids[i] for i in op.inputs if i in ids and i not in masks]
        if op.name in PASSING or (op.name == "MUL" and masks & set(op.inputs)):
            identity: Hashable = known[0] if known else None
            # A state is what was handed on a chunk ago.
            ids.update({i: identity for i in op.inputs if i not in ids and _is_activation(file, graph, i)})
        else:
            identity = (op.name, frozenset(known), _weights(file, op))
        ids.update({i: identity for i in op.outputs if file.type(graph, i) == "FLOAT32" and identity is not None})
    return ids


def _is_activation(file: TfliteFile, graph: str, index: int) -> bool:
    return file.type(graph, index) == "FLOAT32" and file.data(graph, index) is None


def _weights(file: TfliteFile, op: Operator) -> frozenset[int]:
    return frozenset(
        int(file.tensor(op.graph, i).buffer)
        for i in op.inputs
        if file.type(op.graph, i) == "FLOAT32" and file.data(op.graph, i) is not None
    )


def observe(content: bytes, clips: Sequence[Floats], seed: int = 0) -> dict[Hashable, Observed]:
    """Run the float file's offline graph on normalised log-mel clips, and look at every activation."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    file = TfliteFile(content)
    graph = next(iter(file.graphs))
    wanted: dict[Hashable, int] = {}
    for index, identity in identities(file, graph).items():
        wanted.setdefault(identity, index)
    interpreter = Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    (source,) = interpreter.get_input_details()
    rng = np.random.default_rng(seed)
    observed: dict[Hashable, Observed] = {identity: Observed() for identity in wanted}
    for clip in clips:
        interpreter.resize_tensor_input(source["index"], (1, *clip.shape))
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], clip[None])
        interpreter.invoke()
        for identity, index in wanted.items():
            observed[identity].add(interpreter.get_tensor(index), rng)
    return observed


def with_ranges(content: bytes, clips: Sequence[Floats], bits: int) -> bytes:
    """The float file with a range stated for every activation but the heads', as the quantizer wants it.

    What has no range stays in float, and the logits behind the heads are to stay so.
    Raises `DataError` when an activation of the stream has no counterpart offline.
    """
    file = TfliteFile(content)
    ranges = {identity: best_range(seen, bits) for identity, seen in observe(content, clips).items()}
    ranges["mask"] = (0.0, 1.0)
    heads = {(op.graph, i) for op in head_operators(file) for i in op.outputs}
    for graph in file.graphs:
        ids = identities(file, graph)
        behind = {ids[index] for owner, index in heads if owner == graph}
        behind |= {ids[i] for op in file.operators(graph) if op.name == "LOG_SOFTMAX" for i in op.outputs}
        for index, identity in ids.items():
            if identity in behind:
                continue
            if identity not in ranges:
                raise DataError(f"{graph}: {file.name(graph, index)} has no counterpart offline, so no range")
            file.set_range(graph, index, *ranges[identity])
    return file.to_bytes()
