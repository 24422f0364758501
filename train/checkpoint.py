"""Checkpoints: plain ``.npz`` files, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_stt.errors import DataError


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays atomically: the old file stays until the new one is complete."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **dict(arrays))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror}; the last checkpoint is intact") from error


def load_arrays(path: Path) -> dict[str, Any]:
    """Read a checkpoint; raises `DataError` when it is missing or damaged."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        raise DataError(f"{path} is not a readable checkpoint: {error}") from error


def weights_of(model: Any) -> dict[str, Any]:
    """A Keras model's weights by path (``block_1_conv_1/kernel``), float32."""
    return {v.path: np.asarray(v.value) for v in model.weights if "seed_generator" not in v.path}


def restore_weights(model: Any, weights: Mapping[str, Any], where: str) -> None:
    """Put weights back by path; raises `DataError` when the model is another architecture."""
    variables = {v.path: v for v in model.weights if "seed_generator" not in v.path}
    missing = sorted(set(variables) ^ set(weights))
    if missing:
        raise DataError(f"{where} is of another architecture: {missing[0]} and {len(missing) - 1} more do not match")
    for path, variable in variables.items():
        if tuple(variable.shape) != weights[path].shape:
            raise DataError(
                f"{where} is of another size: {path} is {weights[path].shape}, the model has {tuple(variable.shape)}"
            )
        variable.assign(weights[path].astype(np.float32))
