"""The configs of all architectures, apart from their networks: they are read and checked without loading Keras."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from edge_stt.errors import DataError


@dataclass(frozen=True)
class ConvConfig:
    """Size of the network `conv.ConvCTC`. ``lookahead`` follows from it.

    ``strides``: of the strided convolutions, whose product is the stride. ``branches``: heads that stand behind an
    earlier pair than the last, by its number from 1; what they learn guides the pairs above (J. Lee and S. Watanabe,
    "Intermediate loss regularization for CTC-based speech recognition", ICASSP 2021).
    """

    family: str = "conv"
    n_mels: int = 80
    stem_channels: int = 192
    channels: int = 256
    blocks: int = 4
    kernel: int = 5
    right_context: int = 1
    dropout: float = 0.1
    strides: tuple[int, ...] = (2, 2)
    branches: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.n_mels, self.channels, self.stem_channels, self.blocks) <= 0:
            raise DataError(
                "config: model.n_mels, model.channels, model.stem_channels and model.blocks must be above 0"
            )
        if self.kernel < 2:
            raise DataError(f"config: model.kernel must be at least 2, not {self.kernel}")
        if not self.strides or not all(1 <= s <= self.kernel for s in self.strides):
            raise DataError("config: model.strides are one or more numbers from 1 to model.kernel")
        for head, block in self.branches.items():
            if not 1 <= block <= self.blocks:
                raise DataError(f"config: model.branches.{head} must be 1 to model.blocks, not {block}")
        if not 0 <= self.dropout < 1:
            raise DataError(f"config: model.dropout must be in 0..1, not {self.dropout}")
        if not 0 <= 2 * self.right_context <= self.kernel - 1:
            raise DataError("config: model.right_context must be at least 0 and at most half of model.kernel")

    @property
    def stride(self) -> int:
        """Log-mel frames per output frame."""
        return prod(self.strides)

    @property
    def lookahead(self) -> int:
        """Output frames that the network sees ahead."""
        return 2 * self.blocks * self.right_context

    def check_heads(self, heads: Iterable[str]) -> None:
        """Raise `DataError` for a branch that is none of the heads."""
        known = list(heads)
        if unknown := sorted(set(self.branches) - set(known)):
            raise DataError(f"config: model.branches has {unknown[0]!r}; the heads are {', '.join(known)}")


@dataclass(frozen=True)
class DS2Config:
    """Size and form of the network `ds2.DS2CTC`. ``lookahead`` is in output frames of 40 ms, for the unidirectional
    form only."""

    family: str = "ds2"
    n_mels: int = 80
    conv_channels: tuple[int, ...] = (32, 32)
    time_kernel: int = 11
    frequency_kernels: tuple[int, ...] = (41, 21)
    recurrent_layers: int = 3
    recurrent_units: int = 400
    bidirectional: bool = True
    lookahead: int = 10
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.conv_channels) != 2 or len(self.frequency_kernels) != 2:
            raise DataError(
                "config: model.conv_channels and model.frequency_kernels need two values, one a convolution"
            )
        if min(*self.conv_channels, self.recurrent_layers, self.recurrent_units) <= 0:
            raise DataError("config: model.conv_channels, model.recurrent_layers and model.recurrent_units: above 0")
        if min(self.time_kernel, *self.frequency_kernels) < 2:
            raise DataError("config: model.time_kernel and model.frequency_kernels must be at least 2")
        if self.n_mels % 4 or self.n_mels <= 0:
            raise DataError(f"config: model.n_mels must be a multiple of 4 above 0, not {self.n_mels}")
        if self.lookahead < 1:
            raise DataError("config: model.lookahead must be at least 1")
        if not 0 <= self.dropout < 1:
            raise DataError(f"config: model.dropout must be in 0..1, not {self.dropout}")

    @property
    def stride(self) -> int:
        """Log-mel frames per output frame."""
        return 4

    def check_heads(self, heads: Iterable[str]) -> None:
        """Any heads will do."""


FAMILIES: dict[str, Any] = {"conv": ConvConfig, "ds2": DS2Config}


def config_class(family: str) -> Any:
    """The config dataclass of an architecture, by the ``family`` it is called in TOML."""
    if family not in FAMILIES:
        raise DataError(f"config.model: unknown family {family!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[family]
