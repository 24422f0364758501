"""Start a larger network where a smaller one stands: wider and deeper, and at first the same function.

Net2Net (T. Chen, I. Goodfellow and J. Shlens, ICLR 2016) for the convolutional family. Wider: channels are copied, and
what reads a copied channel divides its weights among the copies, unevenly, so that the copies go different ways.
Deeper: a new pair of convolutions begins with a scale of zero, so that its residual path alone is heard.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from edge_stt.errors import DataError

from .checkpoint import load_arrays, restore_weights, save_arrays, weights_of
from .config import TrainConfig, config_of_run
from .models.base import build_network
from .models.conv import ConvConfig, ConvCTC

Arrays = dict[str, Any]
Map = Any  # int64 [new channels]: which of the old channels each new one is a copy of


def grow_run(run: Path, config: TrainConfig, out: Path, heads: Mapping[str, int]) -> int:
    """Write weights of ``config``'s network to ``out``, grown from the best ones of ``run``; returns their number.

    Raises `DataError` when either is not of the convolutional family, or the new one is smaller somewhere.
    """
    small, large = config_of_run(run).model, config.model
    if not isinstance(small, ConvConfig) or not isinstance(large, ConvConfig):
        raise DataError("only networks of the family 'conv' can be grown")
    keras.utils.set_random_seed(config.seed)
    model = ConvCTC(large, dict(heads)).training_model()
    old = {k: v.astype(np.float32) for k, v in load_arrays(run / "best.npz").items() if "/" in k}
    restore_weights(build_network(small, dict(heads)).training_model(), old, str(run / "best.npz"))  # checks the sizes
    weights = grow(old, weights_of(model), small, large, np.random.default_rng(config.seed))
    restore_weights(model, weights, str(out))
    save_arrays(out, weights)
    return sum(int(w.size) for w in weights.values())


def grow(old: Arrays, fresh: Arrays, small: ConvConfig, large: ConvConfig, rng: np.random.Generator) -> Arrays:
    """Weights of the network ``large`` that compute what ``old``, of the network ``small``, do.

    ``fresh`` are newly initialised weights of ``large``: those of the added blocks are taken from there.
    """
    same = ("n_mels", "kernel", "right_context", "strides", "branches")
    if any(getattr(small, key) != getattr(large, key) for key in same):
        raise DataError(f"a network grows in channels and blocks; {', '.join(same)} must stay")
    if large.blocks < small.blocks:
        raise DataError(f"the new network has fewer blocks ({large.blocks}) than the old one ({small.blocks})")
    new = dict(fresh)
    whole = np.arange(small.n_mels)
    stem = _copies(small.stem_channels, large.stem_channels, rng)
    trunk = _copies(small.channels, large.channels, rng)  # the residual paths add up: one map for all of them
    source = whole
    for i, width in enumerate([*[stem] * (len(small.strides) - 1), trunk], 1):
        _convolution(f"stem_{i}", old, new, source, width, rng)
        _channels(f"stem_{i}_norm", old, new, width)
        source = width
    for block in range(1, small.blocks + 1):
        inner = _copies(small.channels, large.channels, rng)
        _convolution(f"block_{block}_conv_1", old, new, trunk, inner, rng)
        _channels(f"block_{block}_conv_1", old, new, inner)
        _convolution(f"block_{block}_conv_2", old, new, inner, trunk, rng)
        _channels(f"block_{block}_norm", old, new, trunk)
    for block in range(small.blocks + 1, large.blocks + 1):
        new[f"block_{block}_norm/gamma"] = np.zeros_like(new[f"block_{block}_norm/gamma"])
    for name in (key.removesuffix("/kernel") for key in old if key.startswith("head_") and key.endswith("/kernel")):
        _convolution(name, old, new, trunk, np.arange(old[f"{name}/bias"].size), rng)
        new[f"{name}/bias"] = old[f"{name}/bias"]
    return new


def _copies(before: int, after: int, rng: np.random.Generator) -> Map:
    """The old channels, and behind them copies of some."""
    if after < before:
        raise DataError(f"the new network is narrower ({after} channels) than the old one ({before})")
    return np.concatenate([np.arange(before), rng.choice(before, after - before, replace=after > 2 * before)])


def _convolution(name: str, old: Arrays, new: Arrays, inputs: Map, outputs: Map, rng: np.random.Generator) -> None:
    """Kernel ``[kernel, in, out]``: outputs copied, inputs copied and their weights divided among the copies."""
    shares = rng.uniform(0.3, 0.7, len(inputs))
    shares /= np.bincount(inputs, shares)[inputs]
    kernel = old[f"{name}/kernel"][:, inputs, :] * shares[None, :, None]
    new[f"{name}/kernel"] = kernel[:, :, outputs].astype(np.float32)


def _channels(name: str, old: Arrays, new: Arrays, outputs: Map) -> None:
    """What there is one of per channel: biases, scales and statistics."""
    for key, value in old.items():
        if key.startswith(f"{name}/") and value.ndim == 1:
            new[key] = value[outputs]
