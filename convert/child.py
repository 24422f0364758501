"""One conversion in a process of its own: a converter that crashes takes only this process with it.

``python -m convert.child SAVED_MODEL OUT MODE [CALIBRATION.npz]`` writes the .tflite file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


def convert(saved_model: Path, mode: str, calibration: Path | None) -> bytes:
    """Convert both signatures; ``calibration`` holds normalised log-mel clips for the integer modes."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["offline", "stream"])
    # Per-channel scales for dense layers need operator versions that tflite-runtime 2.14 does not know.
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode in ("int8", "int16x8"):
        if calibration is None:
            raise ValueError(f"{mode} needs calibration clips")
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            ops.TFLITE_BUILTINS_INT8
            if mode == "int8"
            else ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        converter.representative_dataset = lambda: _representative(saved_model, calibration)
    content: bytes = converter.convert()
    return content


def _representative(saved_model: Path, calibration: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Inputs for both signatures: each clip whole, and the same clip in chunks with the states that go with them."""
    model = tf.saved_model.load(str(saved_model))
    stream = model.signatures["stream"]
    specs = dict(stream.structured_input_signature[1])
    chunk = specs["log_mel"].shape[1]
    stride_chunk = chunk // 4
    with np.load(calibration) as clips:
        for name in clips.files:
            log_mel = clips[name][None]
            yield "offline", {"log_mel": log_mel}
            states = {k: np.zeros(s.shape, np.float32) for k, s in specs.items() if k.startswith("state")}
            for number, start in enumerate(range(0, log_mel.shape[1] - chunk + 1, chunk)):
                inputs = {
                    "log_mel": log_mel[:, start : start + chunk],
                    "position": np.array([number * stride_chunk], np.int32),
                    "end": np.array([2**30], np.int32),
                    **states,
                }
                yield "stream", inputs
                out = stream(**{k: tf.constant(v) for k, v in inputs.items()})
                states = {k: out[k].numpy() for k in states}


def main() -> None:
    """Entry point of the child process."""
    saved_model, out, mode, *calibration = sys.argv[1:]
    content = convert(Path(saved_model), mode, Path(calibration[0]) if calibration else None)
    Path(out).write_bytes(content)


if __name__ == "__main__":
    main()
