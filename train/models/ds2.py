"""DeepSpeech2 (D. Amodei et al., "Deep Speech 2: End-to-End Speech Recognition in English and Mandarin", ICML 2016).

Two 2-D convolutions over time and frequency (100 frames a second → 25), then gated recurrent layers with batch
normalisation between, then one linear CTC head per unit set. It comes in the paper's two forms: bidirectional, which
needs the whole utterance, and unidirectional with a lookahead ("row") convolution behind the last recurrent layer
(section 3.6 of the paper), which streams: ``bidirectional = false``.

Departures from the paper: directions are summed as there, but activations are not clipped at 20 (batch normalisation
bounds them well below), and normalisation stands before a recurrent layer as a whole instead of inside of it. What a
layer makes of its inputs is computed for all frames at once, so that only the recurrent product is left to the loop.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from .base import batch_norm
from .configs import DS2Config

__all__ = ["DS2CTC", "DS2Config"]


@keras.saving.register_keras_serializable("edge_stt")
class RecurrentCell(layers.Layer):  # type: ignore[misc]
    """What is left of a gated recurrent unit when its inputs were multiplied before, for all steps at once.

    Takes these products ``[B, 3 * units]`` (update gate, reset gate, candidate) and the state ``[B, units]``; the reset
    gate works behind the recurrent product, as in cuDNN and in Keras' ``reset_after``.
    """

    def __init__(self, units: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.units = self.state_size = self.output_size = units

    def build(self, shape: Any) -> None:
        """Make the weights."""
        self.kernel = self.add_weight((self.units, 3 * self.units), initializer="orthogonal", name="kernel")
        self.bias = self.add_weight((3 * self.units,), initializer="zeros", name="bias")

    def call(self, products: Any, states: Any) -> tuple[Any, list[Any]]:
        """One step: the output, which is the new state."""
        (hidden,) = states
        update, reset, candidate = ops.split(products, 3, axis=-1)
        again = ops.split(ops.matmul(hidden, self.kernel) + self.bias, 3, axis=-1)
        update, reset = ops.sigmoid(update + again[0]), ops.sigmoid(reset + again[1])
        hidden = update * hidden + (1.0 - update) * ops.tanh(candidate + reset * again[2])
        return hidden, [hidden]

    def get_config(self) -> dict[str, Any]:
        """For Keras' own files."""
        return {**super().get_config(), "units": self.units}


KEEP = 30.0  # added to an update gate, leaves the state as it is: sigmoid(30) is 1


class DS2CTC:
    """Layers shared by three graphs: training, offline and stream. Shapes as `base.CTCModel` says."""

    def __init__(self, config: DS2Config, heads: dict[str, int]) -> None:
        self.config, self.heads, self.stride = config, heads, config.stride
        self.lookahead = -1 if config.bidirectional else config.lookahead
        c = config
        self.convs = [
            layers.Conv2D(
                channels, (c.time_kernel, kernel), strides=2, use_bias=False, kernel_initializer="he_normal",
                name=f"conv_{i}",
            )
            for i, (channels, kernel) in enumerate(zip(c.conv_channels, c.frequency_kernels, strict=True), 1)
        ]  # fmt: skip
        self.conv_norms = [batch_norm(f"conv_{i}_norm") for i in (1, 2)]
        self.flatten = layers.Reshape((-1, c.n_mels // 4 * c.conv_channels[1]))  # [B, T, F, C] to [B, T, F * C]
        self.norms = [batch_norm(f"gru_{i}_norm") for i in range(1, c.recurrent_layers + 1)]
        directions = ("forward", "backward") if c.bidirectional else ("forward",)
        self.products = [
            {way: layers.Dense(3 * c.recurrent_units, use_bias=False, name=f"gru_{i}_{way}_in") for way in directions}
            for i in range(1, c.recurrent_layers + 1)
        ]
        self.loops = [
            {way: self._loop(f"gru_{i}_{way}", way == "backward") for way in directions}
            for i in range(1, c.recurrent_layers + 1)
        ]
        self.dropouts = [layers.SpatialDropout1D(c.dropout) for _ in range(c.recurrent_layers)]
        self.row_conv = (
            None if c.bidirectional else layers.DepthwiseConv1D(c.lookahead + 1, use_bias=False, name="lookahead_conv")
        )
        self.outputs = {
            name: layers.Dense(units, dtype="float32", name=f"head_{name}") for name, units in heads.items()
        }

    def _loop(self, name: str, backwards: bool) -> layers.RNN:
        cell = RecurrentCell(self.config.recurrent_units, name=f"{name}_cell")
        return layers.RNN(cell, return_sequences=True, go_backwards=backwards, name=name)

    # ---- offline and training ----------------------------------------------------------------------------------------
    def _convolve(self, index: int, x: Any, mask: Any | None) -> Any:
        """One strided convolution of ``[B, T, F, C]``; ``mask`` is ``[B, T / 2, 1]``."""
        pad = self.config.time_kernel - 2
        before = (pad + 1) // 2 if self.config.bidirectional else pad
        x = ops.pad(x, [[0, 0], [before, pad - before], self._frequency_pad(index), [0, 0]])
        x = ops.relu(self.conv_norms[index](self.convs[index](x)))
        return x if mask is None else x * ops.expand_dims(ops.cast(mask, x.dtype), -1)

    def _frequency_pad(self, index: int) -> list[int]:
        """Zeros below and above, so that half the bins come out."""
        pad = self.config.frequency_kernels[index] - 2
        return [pad // 2, pad - pad // 2]

    def _offline(self, x: Any, mask: Any | None) -> dict[str, Any]:
        x = ops.expand_dims(x, -1)
        x = self._convolve(0, x, None if mask is None else ops.repeat(mask, 2, axis=1))
        x = self.flatten(self._convolve(1, x, mask))
        steps = None if mask is None else ops.cast(mask[:, :, 0], "bool")
        units = self.config.recurrent_units
        keep = None if mask is None else (1.0 - mask) * np.repeat(np.array([KEEP, 0.0, 0.0], np.float32), units)
        for i, norm in enumerate(self.norms):
            x = norm(x) if steps is None else norm(x, mask=steps)
            ways = []
            for way, loop in self.loops[i].items():
                products = self.products[i][way](x)
                if keep is not None:  # backwards, what is padding comes first, and must not be heard
                    products = products + ops.cast(keep, products.dtype)
                y = loop(products)
                ways.append(ops.flip(y, axis=1) if way == "backward" else y)
            x = self.dropouts[i](sum(ways[1:], start=ways[0]))
            if mask is not None:
                x = x * ops.cast(mask, x.dtype)
        if self.row_conv is not None:
            x = ops.relu(self.row_conv(ops.pad(x, [[0, 0], [0, self.config.lookahead], [0, 0]])))
        return {name: head(x) for name, head in self.outputs.items()}

    def training_model(self, masked_statistics: bool = True) -> keras.Model:
        """Model of ``(log_mel [B, T, n_mels], mask [B, T / 4, 1])`` that returns logits per head.

        ``mask`` is 1 where a clip has output frames and 0 in the padding behind it. The normalisations of recurrent
        layers leave it out in any case, whatever ``masked_statistics`` says; the convolutions' count it as zeros.
        """
        frames = keras.Input((None, self.config.n_mels), name="log_mel")
        mask = keras.Input((None, 1), name="mask")
        return keras.Model([frames, mask], self._offline(frames, mask), name="ds2_ctc")

    def offline_model(self) -> keras.Model:
        """Model of ``log_mel [1, T, n_mels]`` that returns log-probabilities per head."""
        frames = keras.Input((None, self.config.n_mels), batch_size=1, name="log_mel")
        logits = self._offline(frames, None)
        return keras.Model(frames, {name: ops.log_softmax(x) for name, x in logits.items()}, name="offline")

    # ---- streaming ---------------------------------------------------------------------------------------------------
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the state tensors; a stream starts with zeros. Empty for the bidirectional form."""
        c = self.config
        if c.bidirectional:
            return {}
        shapes: dict[str, tuple[int, ...]] = {
            "state_00": (1, c.time_kernel - 2, c.n_mels, 1),
            "state_01": (1, c.time_kernel - 2, c.n_mels // 2, c.conv_channels[0]),
        }
        for i in range(c.recurrent_layers):
            shapes[f"state_{i + 2:02d}"] = (1, c.recurrent_units)
        shapes[f"state_{c.recurrent_layers + 2:02d}"] = (1, c.lookahead, c.recurrent_units)
        return shapes

    def stream_model(self, chunk_frames: int) -> keras.Model | None:
        """Model of one chunk with explicit state, as `conv.ConvCTC.stream_model`; None for the bidirectional form.

        Convolutions and recurrent layers see the past alone, so only the lookahead convolution delays the output.
        """
        c = self.config
        if self.row_conv is None:
            return None
        frames = keras.Input((chunk_frames, c.n_mels), batch_size=1, name="log_mel")
        position = keras.Input((), batch_size=1, dtype="int32", name="position")
        end = keras.Input((), batch_size=1, dtype="int32", name="end")
        states = {name: keras.Input(shape[1:], batch_size=1, name=name) for name, shape in self.state_shapes().items()}
        names = list(states)
        following: dict[str, Any] = {}
        count = chunk_frames // self.stride

        x = ops.expand_dims(frames, -1)
        for i in (0, 1):
            joined = ops.concatenate([states[names[i]], x], axis=1)
            following[names[i]] = joined[:, -(c.time_kernel - 2) :]
            padded = ops.pad(joined, [[0, 0], [0, 0], self._frequency_pad(i), [0, 0]])
            x = ops.relu(self.conv_norms[i](self.convs[i](padded)))
        x = self.flatten(x)
        for i, norm in enumerate(self.norms):
            x, hidden, steps = self.products[i]["forward"](norm(x)), states[names[i + 2]], []
            for step in range(count):  # unrolled: a chunk is a few steps, and TFLite's loops are slow
                output, (hidden,) = self.loops[i]["forward"].cell(x[:, step], [hidden])
                steps.append(output)
            following[names[i + 2]] = hidden
            x = ops.stack(steps, axis=1)
        index = ops.reshape(position, (1, 1, 1)) + ops.reshape(ops.arange(count), (1, count, 1))
        x = x * ops.cast(index < ops.reshape(end, (1, 1, 1)), x.dtype)  # as the zeros that offline pads with
        joined = ops.concatenate([states[names[-1]], x], axis=1)
        following[names[-1]] = joined[:, -c.lookahead :]
        x = ops.relu(self.row_conv(joined))
        out = {name: ops.log_softmax(head(x)) for name, head in self.outputs.items()}
        return keras.Model([frames, position, end, *states.values()], {**out, **following}, name="stream")
