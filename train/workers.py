"""Several processes that train one model together, on one machine or many: TensorFlow's TF_CONFIG says who they are."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras

from edge_stt.errors import DataError


def worker_of_environment() -> tuple[int, int]:
    """This process' number and how many there are, from TF_CONFIG (0 and 1 without it).

    Raises `DataError` when it is not what TensorFlow's guide to multi-worker training says.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 0, 1
    try:
        config = json.loads(text)
        workers: list[Any] = config["cluster"]["worker"]
        index = int(config["task"]["index"])
        if config["task"]["type"] != "worker" or not 0 <= index < len(workers):
            raise ValueError("task is not one of cluster.worker")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            'TF_CONFIG must be {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}: '
            f"{error}"
        ) from error
    return index, len(workers)


def together(workers: int) -> AbstractContextManager[Any]:
    """The scope to make a model in that ``workers`` processes train; to be called before TensorFlow does anything.

    Raises `DataError` where there are several and Keras does not run on TensorFlow.
    """
    if workers == 1:
        return nullcontext()
    if keras.backend.backend() != "tensorflow":
        raise DataError("several workers need TensorFlow; unset TF_CONFIG or KERAS_BACKEND")
    import tensorflow as tf

    scope: AbstractContextManager[Any] = tf.distribute.MultiWorkerMirroredStrategy().scope()
    return scope
