"""The default family: a causal 1-D convolutional CTC network with a little lookahead, and its streaming form.

Strided convolutions (80 log-mel bins at 100 frames a second → 25 a second, if not said otherwise), then residual pairs
of dense convolutions, then one linear CTC head per unit set, behind the last pair or an earlier one. Dense convolutions
of kernel 5 are what both training and the quantised kernels of TFLite run fastest (docs/experiments.md).

Every convolution but the strided ones sees ``right_context`` frames ahead, so the network looks
``2 * blocks * right_context`` output frames (40 ms each) into the future. Offline, each convolution pads with zeros.
Streaming keeps the last ``kernel - 1`` inputs of each convolution as state, delays the residual path to match, and
zeroes what lies before the start and after the end, so that both forms compute the same numbers.
"""

from __future__ import annotations

from math import prod
from typing import Any

import keras
from keras import layers, ops

from .base import batch_norm
from .configs import ConvConfig

__all__ = ["ConvCTC", "ConvConfig"]


class ConvCTC:
    """Layers shared by three graphs: training, offline and stream.

    Inputs are normalised log-mel, float32 ``[batch, frames, n_mels]`` with ``frames`` a multiple of ``stride``; outputs
    are logits (training) or log-probabilities, one ``[batch, frames / stride, units]`` per head.
    """

    def __init__(self, config: ConvConfig, heads: dict[str, int]) -> None:
        self.config, self.heads = config, heads
        self.lookahead, self.stride = config.lookahead, config.stride
        c = config
        c.check_heads(heads)

        def conv(name: str, channels: int, strides: int = 1, bias: bool = True) -> layers.Conv1D:
            return layers.Conv1D(
                channels, c.kernel, strides=strides, use_bias=bias, kernel_initializer="he_normal", name=name
            )

        widths = [*[c.stem_channels] * (len(c.strides) - 1), c.channels]
        self.stem = [
            conv(f"stem_{i}", width, stride, bias=False)
            for i, (width, stride) in enumerate(zip(widths, c.strides, strict=True), 1)
        ]
        self.stem_norms = [batch_norm(f"stem_{i}_norm") for i in range(1, len(c.strides) + 1)]
        self.pairs = [
            (conv(f"block_{i}_conv_1", c.channels), conv(f"block_{i}_conv_2", c.channels, bias=False))
            for i in range(1, c.blocks + 1)
        ]
        self.norms = [batch_norm(f"block_{i}_norm") for i in range(1, c.blocks + 1)]
        self.dropouts = [
            (layers.SpatialDropout1D(c.dropout), layers.SpatialDropout1D(c.dropout)) for _ in range(c.blocks)
        ]
        self.outputs = {
            name: layers.Conv1D(units, 1, dtype="float32", name=f"head_{name}") for name, units in heads.items()
        }

    # ---- offline and training ----------------------------------------------------------------------------------------
    def _offline(self, x: Any, mask: Any | None, masked_statistics: bool = False) -> dict[str, Any]:
        c = self.config
        counted = mask[:, :, 0] if masked_statistics and mask is not None else None
        for i, (conv, norm) in enumerate(zip(self.stem, self.stem_norms, strict=True)):
            left = prod(c.strides[i + 1 :])  # by how much what follows makes it shorter yet
            here = counted if counted is None or left == 1 else ops.repeat(counted, left, axis=1)
            x = ops.relu(norm(conv(ops.pad(x, [[0, 0], [c.kernel - c.strides[i], 0], [0, 0]])), mask=here))
        if mask is not None:
            mask = ops.cast(mask, x.dtype)
            x = x * mask
        pad = [[0, 0], [c.kernel - 1 - c.right_context, c.right_context], [0, 0]]
        behind = []  # each pair
        for (first, second), norm, (drop_1, drop_2) in zip(self.pairs, self.norms, self.dropouts, strict=True):
            y = drop_1(ops.relu(first(ops.pad(x, pad))))
            y = norm(second(ops.pad(y, pad)), mask=counted)
            x = drop_2(ops.relu(x + y))
            if mask is not None:
                x = x * mask
            behind.append(x)
        return {name: head(behind[c.branches.get(name, c.blocks) - 1]) for name, head in self.outputs.items()}

    def training_model(self, masked_statistics: bool = False) -> keras.Model:
        """Model of ``(log_mel [B, T, n_mels], mask [B, T / stride, 1])`` that returns logits per head.

        ``mask`` is 1 where a clip has output frames and 0 in the padding behind it. ``masked_statistics`` leaves the
        padding out of what normalisations learn; in batches of clips of like lengths there is little of it.
        """
        frames = keras.Input((None, self.config.n_mels), name="log_mel")
        mask = keras.Input((None, 1), name="mask")
        return keras.Model([frames, mask], self._offline(frames, mask, masked_statistics), name="conv_ctc")

    def offline_model(self) -> keras.Model:
        """Model of ``log_mel [1, T, n_mels]`` that returns log-probabilities per head."""
        frames = keras.Input((None, self.config.n_mels), batch_size=1, name="log_mel")
        logits = self._offline(frames, None)
        return keras.Model(frames, {name: ops.log_softmax(x) for name, x in logits.items()}, name="offline")

    # ---- streaming ---------------------------------------------------------------------------------------------------
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the state tensors; a stream starts with zeros. Frames, then channels."""
        c = self.config
        shapes: list[tuple[int, ...]] = []
        for i, stride in enumerate(c.strides):
            shapes.append((1, c.kernel - stride, c.stem_channels if i else c.n_mels))
        shapes += [(1, c.kernel - 1, c.channels)] * (2 * c.blocks)
        # What a head behind an earlier pair hears waits for the others.
        shapes += [(1, self._waits(name), c.channels) for name in self.heads if self._waits(name)]
        return {f"state_{i:02d}": shape for i, shape in enumerate(shapes) if shape[1]}

    def _waits(self, head: str) -> int:
        """Output frames by which a head's stream is delayed beyond its own lookahead."""
        c = self.config
        return 2 * c.right_context * (c.blocks - c.branches.get(head, c.blocks))

    def stream_model(self, chunk_frames: int) -> keras.Model | None:
        """Model of one chunk: ``log_mel [1, chunk_frames, n_mels]``, states, ``position`` and ``end`` in output frames.

        ``position`` (int32 ``[1]``) counts the output frames' worth of input fed before this chunk; ``end`` is their
        number in the whole utterance once that is known (feed zeros to flush), a huge number before. Returns
        log-probabilities that lag the input by ``lookahead`` frames, and the next states under their input names.
        """
        c = self.config
        x = frames = keras.Input((chunk_frames, c.n_mels), batch_size=1, name="log_mel")
        position = keras.Input((), batch_size=1, dtype="int32", name="position")
        end = keras.Input((), batch_size=1, dtype="int32", name="end")
        states = {name: keras.Input(shape[1:], batch_size=1, name=name) for name, shape in self.state_shapes().items()}
        queue = list(states)
        following: dict[str, Any] = {}
        count = chunk_frames // self.stride

        def mask(x: Any, delay: int) -> Any:
            index = ops.reshape(position, (1, 1, 1)) + ops.reshape(ops.arange(count) - delay, (1, count, 1))
            inside = ops.logical_and(index >= 0, index < ops.reshape(end, (1, 1, 1)))
            return x * ops.cast(inside, x.dtype)

        def window(x: Any) -> tuple[Any, Any]:
            """The state and the new frames joined, and the state kept for next time."""
            name = queue.pop(0)
            joined = ops.concatenate([states[name], x], axis=1)
            following[name] = joined[:, -states[name].shape[1] :]
            return joined, joined

        for conv, norm, stride in zip(self.stem, self.stem_norms, c.strides, strict=True):
            joined = window(x)[0] if c.kernel > stride else x
            x = ops.relu(norm(conv(joined)))
        x = mask(x, 0)
        delay, r = 0, c.right_context
        behind = []
        for (first, second), norm in zip(self.pairs, self.norms, strict=True):
            joined, history = window(x)
            delay += r
            y = mask(ops.relu(first(joined)), delay)
            joined, _ = window(y)
            delay += r
            y = norm(second(joined))
            start = c.kernel - 1 - 2 * r
            x = mask(ops.relu(history[:, start : start + count] + y), delay)
            behind.append(x)
        out = {}
        for name, head in self.outputs.items():
            x = behind[c.branches.get(name, c.blocks) - 1]
            if self._waits(name):  # here, and not behind the head, whose log-probabilities 8 bits would hold badly
                x = window(x)[0][:, :count]
            out[name] = ops.log_softmax(head(x))
        return keras.Model([frames, position, end, *states.values()], {**out, **following}, name="stream")
