"""Which operators a file may use: TFLite's own, of versions that both runtimes know. Flex and custom ones are named."""

from __future__ import annotations

from edge_stt.errors import EdgeSttError

from .flatbuffer import TfliteFile, layer_of

# What both architectures become, and what both runtimes run. An operator that is not here may work; nobody has tried.
ALLOWED = frozenset(
    (
        "ADD",
        "BROADCAST_TO",
        "CAST",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "DEQUANTIZE",
        "EXPAND_DIMS",
        "FILL",
        "FULLY_CONNECTED",
        "GATHER",
        "GREATER_EQUAL",
        "LESS",
        "LOGICAL_AND",
        "LOGISTIC",
        "LOG_SOFTMAX",
        "MUL",
        "PACK",
        "PAD",
        "QUANTIZE",
        "REDUCE_PROD",
        "RELU",
        "RESHAPE",
        "REVERSE_V2",
        "SELECT_V2",
        "SHAPE",
        "SLICE",
        "SPLIT",
        "SPLIT_V",
        "SQUEEZE",
        "STRIDED_SLICE",
        "SUB",
        "TANH",
        "TRANSPOSE",
        "UNPACK",
        "WHILE",
    )
)


class OperatorError(EdgeSttError):
    """A converted file needs operators that the device does not have."""


def check_operators(content: bytes, allowed: frozenset[str] = ALLOWED) -> None:
    """Raise `OperatorError`, naming the layers, when a file uses others than the allowed operators."""
    foreign = foreign_operators(content, allowed)
    if foreign:
        raise OperatorError(
            "the file needs operators that TFLite on a device does not have: "
            + "; ".join(f"{name} in {', '.join(layers)}" for name, layers in sorted(foreign.items()))
        )


def foreign_operators(content: bytes, allowed: frozenset[str] = ALLOWED) -> dict[str, list[str]]:
    """Operators that are not allowed, with the layers they are in. Flex operators are custom ones named ``Flex…``."""
    file = TfliteFile(content)
    found: dict[str, list[str]] = {}
    for graph in file.graphs:
        for op in file.operators(graph):
            if op.name not in allowed:
                layers = found.setdefault(op.name, [])
                layer = layer_of(file.name(graph, op.outputs[0])) if op.outputs else graph
                if layer not in layers:
                    layers.append(layer)
    return found
