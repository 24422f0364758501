"""Whether word confidences are what they say: of the words at 0.8, eight in ten should be right.

The measure is the expected calibration error of C. Guo et al., "On calibration of modern neural networks", ICML 2017,
over bins with equally many words; the map that mends it is J. Platt's, "Probabilistic outputs for support vector
machines", 1999: a line on the logit. The confidence being a logistic function itself, the line goes into its weights.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .beam_config import ConfidenceConfig
from .decoding import Hypothesis
from .errors import DataError
from .logistic import Floats, fit_logistic
from .plot import COLOURS, require_matplotlib
from .scoring import align, count_edits

BINS = 15
EDGE = 1e-6  # confidences are kept this far from 0 and 1


@dataclass(frozen=True)
class Judged:
    """Words of hypotheses: their confidences, float64 ``[words]``, and whether they are right, bool ``[words]``."""

    confidence: Floats
    right: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, Hypothesis]]) -> Judged:
        """From normalised references and hypotheses; a word is right where the alignment has it in the reference."""
        confidence: list[float] = []
        right: list[bool] = []
        for reference, hypothesis in pairs:
            said = [word.text for word in hypothesis.words]
            right += [a == b for a, b in align(reference.split(), said) if b is not None]
            confidence += [word.confidence for word in hypothesis.words]
        if not confidence:
            raise DataError("no words were recognised: there is nothing to judge")
        return cls(np.array(confidence, np.float64), np.array(right, np.bool_))

    def __add__(self, other: Judged) -> Judged:
        return Judged(np.concatenate([self.confidence, other.confidence]), np.concatenate([self.right, other.right]))

    def bins(self, count: int = BINS) -> list[tuple[float, float, int]]:
        """Mean confidence, share that is right and number of words of ``count`` bins, the least sure first."""
        order = np.argsort(self.confidence, kind="stable")
        return [
            (float(self.confidence[part].mean()), float(self.right[part].mean()), len(part))
            for part in np.array_split(order, count)
            if len(part)
        ]

    @property
    def error(self) -> float:
        """The expected calibration error, 0..1."""
        return sum(n * abs(said - right) for said, right, n in self.bins()) / len(self.right)


def fit_line(judged: Judged) -> tuple[float, float]:
    """Slope and offset on the logit of the confidence that make it a probability."""
    x = _logit(judged.confidence)
    slope, offset = fit_logistic(np.stack([x, np.ones_like(x)], axis=1), judged.right).tolist()
    return slope, offset


def mended(judged: Judged, line: tuple[float, float]) -> Judged:
    """The same words with their confidences mapped."""
    slope, offset = line
    return Judged(1.0 / (1.0 + np.exp(-slope * _logit(judged.confidence) - offset)), judged.right)


def mend(config: ConfidenceConfig, line: tuple[float, float]) -> ConfidenceConfig:
    """Settings that give the mapped confidences."""
    slope, offset = line
    return ConfidenceConfig(
        round(slope * config.competition, 4),
        round(slope * config.acoustics, 4),
        round(slope * config.offset + offset, 4),
    )


def _logit(confidence: Floats) -> Floats:
    kept = np.clip(confidence, EDGE, 1.0 - EDGE)
    result: Floats = np.log(kept / (1.0 - kept))
    return result


def oracle_errors(reference: str, hypotheses: Sequence[Hypothesis]) -> int:
    """Word errors of the best of several hypotheses."""
    words = reference.split()
    return min(count_edits(words, hypothesis.text.split()).errors for hypothesis in hypotheses)


def reliability_svg(curves: Sequence[tuple[str, Judged]]) -> bytes:
    """The reliability plot: the share of right words against confidence, a curve each. Needs matplotlib."""
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1.0, linestyle="--")
    for (name, judged), colour in zip(curves, COLOURS, strict=False):
        said, right, _ = zip(*judged.bins(), strict=True)
        axes.plot(said, right, "o-", color=colour, markersize=4, label=f"{name}, ECE {judged.error:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="share of words that are right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "edge-stt", "svg.fonttype": "none"}):  # the same bytes each time
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
