"""One conversion in a process of its own: a converter that crashes takes only this process with it.

``python -m convert.child SAVED_MODEL OUT MODE`` writes a .tflite file; `main` has the options.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from edge_stt.features import Floats

from .flatbuffer import WEIGHTED, Operator, TfliteFile, head_operators, layer_operators
from .ranges import with_ranges

CONV_VERSION = 4  # the oldest that knows 16-bit activations: tflite-runtime 2.14 must load the file


def convert(
    saved_model: Path, mode: str, calibration: Path | None = None, keep_float: Sequence[str] = (), stream: bool = True
) -> bytes:
    """Convert both signatures; ``calibration`` holds normalised log-mel clips for the integer modes.

    ``keep_float`` names layers whose weights and arithmetic stay in float32. Without ``stream`` there is one signature.
    """
    signatures = ["offline", "stream"] if stream else ["offline"]
    if mode in ("int8", "int16x8"):
        if calibration is None:
            raise ValueError(f"{mode} needs calibration clips")
        with np.load(calibration) as file:
            clips = list(file.values())
        content = from_saved_model(saved_model, "float32", signatures)
        if not has_loops(content):
            return quantize_integer(content, mode, clips, keep_float)
        return quantize_by_tensorflow(saved_model, mode, clips, signatures)
    content = from_saved_model(saved_model, mode, signatures)
    if mode == "dynamic":
        content = with_float_weights(content, from_saved_model(saved_model, "float32", signatures), keep_float)
    return content


def _converter(saved_model: Path, signatures: Sequence[str]) -> Any:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=list(signatures))
    # Per-channel scales for dense layers need operator versions that tflite-runtime 2.14 does not know.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return converter


def from_saved_model(saved_model: Path, mode: str, signatures: Sequence[str]) -> bytes:
    """TensorFlow's converter in a mode without calibration."""
    converter = _converter(saved_model, signatures)
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    content: bytes = converter.convert()
    return content


def has_loops(content: bytes) -> bool:
    """Whether a file has recurrent layers as loops, into which `ranges` cannot look."""
    file = TfliteFile(content)
    return any(op.name == "WHILE" for graph in file.graphs for op in file.operators(graph))


def quantize_by_tensorflow(saved_model: Path, mode: str, clips: list[Floats], signatures: Sequence[str]) -> bytes:
    """TensorFlow's own calibration and quantization, for networks with loops.

    On loops that multiply their inputs, as those of Keras' recurrent layers, it crashes (TensorFlow 2.21), and it has
    no 16-bit activations for any.
    """
    ops = tf.lite.OpsSet
    converter = _converter(saved_model, signatures)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [
        ops.TFLITE_BUILTINS_INT8 if mode == "int8" else ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    ]
    converter.representative_dataset = lambda: _representative(saved_model, clips, "stream" in signatures)
    content: bytes = converter.convert()
    return content


def _representative(saved_model: Path, clips: list[Floats], with_stream: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Inputs for both signatures: each clip whole, and the same clip in chunks with the states that go with them."""
    model = tf.saved_model.load(str(saved_model))
    for clip in clips:
        yield "offline", {"log_mel": clip[None]}
        if not with_stream:
            continue
        stream = model.signatures["stream"]
        specs = dict(stream.structured_input_signature[1])
        chunk = specs["log_mel"].shape[1]
        said = next(spec for name, spec in stream.structured_outputs.items() if name not in specs)
        stride = chunk // said.shape[1]
        states = {k: np.zeros(s.shape, np.float32) for k, s in specs.items() if k.startswith("state")}
        for start in range(0, len(clip) - chunk + 1, chunk):
            position = np.array([start // stride], np.int32)
            inputs = {"log_mel": clip[None, start : start + chunk], "position": position, **states}
            inputs["end"] = np.array([2**30], np.int32)
            yield "stream", inputs
            out = stream(**{k: tf.constant(v) for k, v in inputs.items()})
            states = {k: out[k].numpy() for k in states}


def quantize_integer(content: bytes, mode: str, clips: list[Floats], keep_float: Sequence[str] = ()) -> bytes:
    """Integer weights and activations from a float file, but for the heads and their log-softmax.

    Logits go from far below to a little above zero, and 8 bits for all of that make most of the noise; the heads have
    less than a hundredth of the weights. Weights of convolutions have one scale a channel. Ranges of activations are
    `ranges.with_ranges`'.
    """
    ranged = with_ranges(content, clips, 8 if mode == "int8" else 16)
    file = TfliteFile(ranged)
    return quantize_ranged(ranged, mode, [file.name(op.graph, op.outputs[0]) for op in _in_float(file, keep_float)])


def quantize_ranged(ranged: bytes, mode: str, float_tensors: Sequence[str] = ()) -> bytes:
    """The same from a file whose activations have ranges; operators that give ``float_tensors`` stay float."""
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.toco import types_pb2

    quantized: bytes = mlir_quantize(
        ranged,
        inference_type=types_pb2.QUANTIZED_INT8 if mode == "int8" else types_pb2.QUANTIZED_INT16,
        disable_per_channel_for_dense_layers=True,
        denylisted_ops=["LOG_SOFTMAX"],
        denylisted_nodes=list(float_tensors),
    )
    return quantized if mode == "int8" else repair_16_bit(quantized)


def repair_16_bit(content: bytes) -> bytes:
    """Give the kernels what they want where the quantizer errs: biases of 64 bits, and no zero point of -1."""
    file = TfliteFile(content)
    types = file.types
    widened: set[int] = set()
    for graph, table in file.graphs.items():
        for tensor in table.tensors:
            if types[tensor.type] == "INT16" and tensor.quantization is not None:
                zeros = tensor.quantization.zeroPoint
                tensor.quantization.zeroPoint = None if zeros is None else [0] * len(zeros)
        for op in file.operators(graph):
            if op.name not in WEIGHTED or file.type(graph, op.inputs[0]) != "INT16" or len(op.inputs) < 3:
                continue
            bias = file.tensor(graph, op.inputs[2])
            if types[bias.type] == "INT32":
                bias.type = next(value for value, name in types.items() if name == "INT64")
                if bias.buffer not in widened:
                    widened.add(bias.buffer)
                    buffer = file.model.buffers[bias.buffer]
                    wide = np.asarray(buffer.data, np.uint8).view("<i4").astype("<i8")
                    buffer.data = np.frombuffer(wide.tobytes(), np.uint8)
    file.limit_version("CONV_2D", CONV_VERSION)
    return file.to_bytes()


def with_float_weights(content: bytes, float_content: bytes, layers: Sequence[str]) -> bytes:
    """A dynamic-range file in which the heads and some layers have float weights again, and so float arithmetic.

    The heads for the reason that `quantize_integer` gives; streaming is then nearer to offline too.
    """
    file, source = TfliteFile(content), TfliteFile(float_content)
    for op, original in zip(_in_float(file, layers), _in_float(source, layers), strict=True):
        file.replace_constant(op.graph, op.inputs[1], source.values(original.graph, original.inputs[1]))
    return file.to_bytes()


def _in_float(file: TfliteFile, layers: Sequence[str]) -> list[Operator]:
    """The operators of the heads and of the named layers."""
    return [*head_operators(file), *(op for layer in layers for op in layer_operators(file, layer))]


def main() -> None:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("mode")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--keep-float", nargs="*", default=[])
    parser.add_argument("--offline-only", action="store_true")
    a = parser.parse_args()
    a.out.write_bytes(convert(a.saved_model, a.mode, a.calibration, a.keep_float, not a.offline_only))


if __name__ == "__main__":
    main()
