"""What every architecture offers. A new one is a file here, a config in `configs`, and a line in `build_network`."""

from __future__ import annotations

from typing import Any, Protocol

from edge_stt.errors import DataError

from .configs import ConvConfig, DS2Config


class CTCModel(Protocol):
    """A CTC network as graphs that share their weights.

    Inputs are normalised log-mel, float32 ``[batch, frames, n_mels]``, ``frames`` a multiple of ``stride``; outputs are
    one tensor ``[batch, frames / stride, units]`` per head: logits in training, log-probabilities on the device.
    """

    stride: int
    heads: dict[str, int]  # units of each
    lookahead: int  # output frames the network sees ahead; -1 when it needs the whole utterance

    def training_model(self, masked_statistics: bool = False) -> Any:
        """Keras model of ``(log_mel, mask [batch, frames / stride, 1])``; ``masked_statistics`` as in `conv`."""
        ...

    def offline_model(self) -> Any:
        """Keras model of ``log_mel`` with batch size 1."""
        ...

    def stream_model(self, chunk_frames: int) -> Any | None:
        """Keras model of one chunk with explicit state, or None when the architecture cannot stream."""
        ...

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the state tensors of `stream_model` by name; empty when it cannot stream."""
        ...


def batch_norm(name: str) -> Any:
    """A batch normalisation; where several workers train together, of all their batches."""
    import keras

    together = False
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        together = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return keras.layers.BatchNormalization(name=name, synchronized=together)


def build_network(config: Any, heads: dict[str, int]) -> CTCModel:
    """The network for a model config; ``heads`` gives the number of units of each head."""
    from .conv import ConvCTC
    from .ds2 import DS2CTC

    if isinstance(config, ConvConfig):
        return ConvCTC(config, heads)
    if isinstance(config, DS2Config):
        return DS2CTC(config, heads)
    raise DataError(f"no architecture takes a {type(config).__name__}")
