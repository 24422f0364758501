"""What a run shows in TensorBoard: curves, what the model writes for some dev clips, and what it is shown.

Without TensorFlow (training in JAX) only the curves, through TensorBoard's own writer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edge_stt.features import Floats


class Board(Protocol):
    """Where a run is shown."""

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Points of curves."""
        ...

    def transcripts(self, lines: Sequence[tuple[str, str]], step: int) -> None:
        """What was said, and what the model wrote."""
        ...

    def spectrogram(self, log_mel: Floats, step: int) -> None:
        """Normalised log-mel as the model was shown it, float32 ``[frames, n_mels]``."""
        ...


def open_board(run: Path | None) -> Board:
    """The board of a run directory; without one, a board that shows nothing."""
    if run is None:
        return _NoBoard()
    folder = run / "tensorboard"
    if importlib.util.find_spec("tensorflow") is not None:
        return _TensorFlowBoard(folder)
    if importlib.util.find_spec("tensorboard") is not None:
        return _CurvesOnly(folder)
    return _NoBoard()


class _TensorFlowBoard:
    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        self._summary, self._writer = tf.summary, tf.summary.create_file_writer(str(folder))

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        with self._writer.as_default(step=step):
            for name, value in values.items():
                self._summary.scalar(f"{group}/{name}", value)

    def transcripts(self, lines: Sequence[tuple[str, str]], step: int) -> None:
        table = "\n".join(["| said | written |", "|---|---|", *(f"| {said} | {written} |" for said, written in lines)])
        with self._writer.as_default(step=step):
            self._summary.text("dev/transcripts", table)

    def spectrogram(self, log_mel: Floats, step: int) -> None:
        picture = np.clip((log_mel.T[::-1] + 2.5) / 5.0, 0.0, 1.0)  # of -2.5 to 2.5 standard deviations
        with self._writer.as_default(step=step):
            self._summary.image("train/log_mel", picture[None, :, :, None])


class _NoBoard:
    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        pass

    def transcripts(self, lines: Sequence[tuple[str, str]], step: int) -> None:
        pass

    def spectrogram(self, log_mel: Floats, step: int) -> None:
        pass


class _CurvesOnly(_NoBoard):
    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer

        self._writer: Any = Writer(str(folder))

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
        self._writer.flush()
