"""From a training run's weights to a SavedModel with the signatures ``offline`` and ``stream`` that share them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from edge_stt.features import FeatureStatistics, FrontEndConfig
from edge_stt.language import normaliser_of
from edge_stt.package import StreamInfo
from edge_stt.text import Normaliser
from edge_stt.units import UnitSet
from train.checkpoint import load_arrays, restore_weights
from train.config import TrainConfig
from train.finished import FinishedRun
from train.models.base import CTCModel, build_network

STREAM_CHUNK_FRAMES = 16  # 160 ms: the weights are read once a chunk, so longer is cheaper and later


def chunk_frames(stride: int) -> int:
    """Log-mel frames of a chunk: about `STREAM_CHUNK_FRAMES`, and whole output frames."""
    return max(1, STREAM_CHUNK_FRAMES // stride) * stride


@dataclass(frozen=True)
class TrainedModel:
    """A run's best weights in Keras graphs, and what the package must say about them."""

    config: TrainConfig
    units: dict[str, UnitSet]
    front_end: FrontEndConfig
    statistics: FeatureStatistics
    network: CTCModel
    offline: keras.Model
    stream: keras.Model | None
    step: int
    language: dict[str, Any] = field(default_factory=dict)  # as `edge_stt.language.Language.to_package`

    @property
    def normaliser(self) -> Normaliser:
        """How texts of the model's language are written."""
        return normaliser_of(self.language)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return int(self.offline.count_params())


def load_run(run: Path) -> TrainedModel:
    """Load ``best.npz`` of a run directory; raises `DataError` when it is missing, damaged or does not fit."""
    said = FinishedRun.read(run)
    network = build_network(said.config.model, {head: len(units) for head, units in said.heads.items()})
    training = network.training_model()
    arrays = load_arrays(run / "best.npz")
    step = int(arrays.pop("step", 0))
    restore_weights(training, arrays, str(run / "best.npz"))
    return TrainedModel(
        said.config,
        said.heads,
        said.front_end,
        said.statistics,
        network,
        network.offline_model(),
        network.stream_model(chunk_frames(network.stride)),
        step,
        said.language,
    )


def stream_info(model: TrainedModel) -> StreamInfo | None:
    """What the package says of the stream signature; None when the architecture cannot stream."""
    if model.stream is None:
        return None
    return StreamInfo(chunk_frames(model.network.stride), model.network.state_shapes())


def save_graphs(model: TrainedModel, out: Path) -> None:
    """Write the SavedModel. Tensors keep their names, which is how the device addresses them."""
    archive = keras.export.ExportArchive()
    archive.track(model.offline)
    mels = model.front_end.n_mels

    def offline(log_mel: Any) -> Any:
        return model.offline(log_mel, training=False)

    archive.add_endpoint("offline", offline, [tf.TensorSpec((1, None, mels), tf.float32, name="log_mel")])
    if model.stream is not None:
        _add_stream(archive, model.stream)
    archive.write_out(str(out), verbose=False)


def _add_stream(archive: Any, model: keras.Model) -> None:
    archive.track(model)

    def stream(inputs: dict[str, Any]) -> Any:
        return model([inputs[t.name] for t in model.inputs], training=False)

    specs = {t.name: tf.TensorSpec(t.shape, t.dtype, name=t.name) for t in model.inputs}
    archive.add_endpoint("stream", stream, [specs])
