"""TFLite files taken apart and put together again, by the schema that comes with ai-edge-litert."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_stt.errors import PackageError, RuntimeMissingError

# Operators with weights, which are their second input.
WEIGHTED = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"))


def _schema() -> Any:
    for module in ("ai_edge_litert.schema_py_generated", "tensorflow.lite.python.schema_py_generated"):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise RuntimeMissingError("reading TFLite files needs their schema: pip install ai-edge-litert")


def _names(enum: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if not name.startswith("_")}


@dataclass(frozen=True)
class Operator:
    """One operator of a graph: its name (of a custom one, ``custom:NAME``) and the indices of its tensors."""

    graph: str
    index: int
    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class TfliteFile:
    """A parsed file. ``model`` is the schema's object tree, which may be changed before `to_bytes`."""

    def __init__(self, content: bytes) -> None:
        """Raises `PackageError` when this is no TFLite file."""
        self._schema = _schema()
        if content[4:8] != b"TFL3":
            raise PackageError("not a TFLite file")
        try:
            self.model = self._schema.ModelT.InitFromObj(self._schema.Model.GetRootAsModel(content, 0))
        except Exception as error:
            raise PackageError(f"a damaged TFLite file: {error}") from error
        self._operators, self.types = _names(self._schema.BuiltinOperator), _names(self._schema.TensorType)
        self.graphs: dict[str, Any] = {}
        for number, graph in enumerate(self.model.subgraphs):
            self.graphs[_text(graph.name) or f"graph {number}"] = graph

    def operators(self, graph: str) -> Iterator[Operator]:
        """The operators of a graph in the order they run."""
        for index, operator in enumerate(self.graphs[graph].operators):
            code = self.model.operatorCodes[operator.opcodeIndex]
            builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
            name = f"custom:{_text(code.customCode)}" if code.customCode else self._operators.get(builtin, str(builtin))
            inputs = tuple(int(i) for i in operator.inputs if i >= 0)
            yield Operator(graph, index, name, code.version, inputs, tuple(int(i) for i in operator.outputs))

    def tensor(self, graph: str, index: int) -> Any:
        """A tensor's table."""
        return self.graphs[graph].tensors[index]

    def name(self, graph: str, index: int) -> str:
        """A tensor's name; fused operators have the names of all they were, with semicolons between."""
        return _text(self.tensor(graph, index).name)

    def type(self, graph: str, index: int) -> str:
        """``FLOAT32``, ``INT8`` and so on."""
        return self.types[self.tensor(graph, index).type]

    def shape(self, graph: str, index: int) -> tuple[int, ...]:
        """Shape, -1 where it is open."""
        tensor = self.tensor(graph, index)
        shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
        return tuple(int(x) for x in (() if shape is None else shape))

    def data(self, graph: str, index: int) -> npt.NDArray[np.uint8] | None:
        """The bytes of a constant; None for what is computed."""
        data = self.model.buffers[self.tensor(graph, index).buffer].data
        return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)

    def values(self, graph: str, index: int) -> npt.NDArray[np.float32]:
        """A constant's values, dequantised where it is quantised."""
        data, kind = self.data(graph, index), self.type(graph, index)
        assert data is not None
        dtypes = {"INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FLOAT16": np.float16}
        raw = data.view(dtypes.get(kind, np.float32)).reshape(self.shape(graph, index)).astype(np.float32)
        quantization = self.tensor(graph, index).quantization
        if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
            return raw
        along = [1] * raw.ndim
        if len(quantization.scale) > 1:
            along[quantization.quantizedDimension] = -1
        scale, zero = (np.asarray(x, np.float32).reshape(along) for x in (quantization.scale, quantization.zeroPoint))
        return (raw - zero) * scale

    def replace_constant(self, graph: str, index: int, values: npt.NDArray[np.float32]) -> None:
        """Make a constant float32, whatever it was. Tensors that share its buffer must be replaced too."""
        tensor = self.tensor(graph, index)
        tensor.type, tensor.quantization = self._schema.TensorType.FLOAT32, None
        self.model.buffers[tensor.buffer].data = np.frombuffer(values.astype("<f4").tobytes(), np.uint8)

    def set_range(self, graph: str, index: int, low: float, high: float) -> None:
        """State the range of a float tensor, as calibration does for the quantizer."""
        quantization = self._schema.QuantizationParametersT()
        quantization.min, quantization.max = [low], [high]
        quantization.quantizedDimension = 0
        self.tensor(graph, index).quantization = quantization

    def limit_version(self, operator: str, version: int) -> None:
        """State an older version of an operator, whose newer features the file does not use."""
        for code in self.model.operatorCodes:
            if self._operators.get(max(code.builtinCode, code.deprecatedBuiltinCode)) == operator:
                code.version = min(code.version, version)

    def to_bytes(self) -> bytes:
        """The file again."""
        builder = importlib.import_module("flatbuffers").Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def layer_operators(file: TfliteFile, layer: str) -> list[Operator]:
    """The operators with weights, of all graphs, that a Keras layer became; its names have a number added."""
    return [
        op
        for graph in file.graphs
        for op in file.operators(graph)
        if op.name in WEIGHTED and layer in _layer_names(file.name(graph, op.outputs[0]))
    ]


def head_operators(file: TfliteFile) -> list[Operator]:
    """The operators with weights, of all graphs, whose outputs go into log-softmax."""
    heads = []
    for graph in file.graphs:
        makers = {index: op for op in file.operators(graph) for index in op.outputs}
        for op in file.operators(graph):
            maker = makers.get(op.inputs[0]) if op.name == "LOG_SOFTMAX" else None
            while maker is not None and maker.name not in WEIGHTED:
                maker = makers.get(maker.inputs[0]) if maker.inputs else None
            if maker is not None:
                heads.append(maker)
    return heads


def _layer_names(tensor: str) -> set[str]:
    """The names in a tensor's that may be a layer's, with and without the number that TensorFlow adds."""
    parts = {part for name in tensor.split(";") for part in name.split("/")}
    return parts | {re.sub(r"_\d+$", "", part) for part in parts}


def layer_of(tensor: str) -> str:
    """The layer that a tensor's name tells of: ``offline_1/block_1_conv_1_1/convolution`` is block_1_conv_1's."""
    names = [name.split("/") for name in tensor.split(";")]
    named = [parts[1] for parts in names if len(parts) > 2 and parts[2] in ("convolution", "MatMul", "BiasAdd")]
    named += [parts[1] for parts in names if len(parts) > 2]
    return re.sub(r"_1$", "", named[0]) if named else tensor.split(";", maxsplit=1)[0]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return bytes(value or b"").decode("utf-8", "replace")
