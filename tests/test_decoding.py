"""Greedy decoding and the cutting of long recordings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt.decoding import greedy
from edge_stt.features import FrontEndConfig
from edge_stt.segments import SegmentConfig, cut_at_silences
from edge_stt.units import ENGLISH_CHARACTERS as CHARACTERS


def _log_probs(path: str, peak: float = 0.9) -> np.ndarray:
    """Log-probabilities whose likeliest path is ``path``, one character a frame, ``_`` the blank."""
    out = np.full((len(path), len(CHARACTERS)), np.log((1 - peak) / (len(CHARACTERS) - 1)), np.float32)
    for frame, symbol in enumerate(path):
        out[frame, 0 if symbol == "_" else CHARACTERS.index[symbol]] = np.log(peak)
    return out


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("hhe_l_llo", "hello"),
        ("_a__  _b_", "a b"),
        ("____", ""),
        ("", ""),
        (" a ", "a"),
        ("a_a", "aa"),
        ("aa", "a"),
        ("it's", "it's"),
    ],
)
def test_greedy(path: str, text: str) -> None:
    assert greedy(_log_probs(path), CHARACTERS).text == text


def test_times_and_confidences() -> None:
    log_probs = _log_probs("_hi__yo_")
    log_probs[5] = _log_probs("y", peak=0.5)
    first, second = greedy(_log_probs("_hi_ yo_"), CHARACTERS).words
    assert (first.text, first.start, first.end) == ("hi", 1, 3)
    assert (second.text, second.start, second.end) == ("yo", 5, 7)
    assert first.confidence == pytest.approx(0.9, abs=1e-5)
    weak = greedy(log_probs, CHARACTERS).words[0]
    assert weak.confidence == pytest.approx((0.9 * 0.9 * 0.5 * 0.9) ** 0.25, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=8))
def test_cut_stretches_joined_are_the_recording(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    pieces = [rng.normal(size=(size, 80)).astype(np.float32) for size in sizes]
    config = SegmentConfig(1.0, 3.0, 0.2)
    stretches = list(cut_at_silences(pieces, FrontEndConfig(), config))
    np.testing.assert_array_equal(np.concatenate(stretches), np.concatenate(pieces))
    assert all(100 <= len(s) <= 300 for s in stretches[:-1])


def test_the_cut_falls_into_the_pause() -> None:
    frames = np.zeros((400, 80), np.float32)
    frames[220:250] = -8.0
    first, _ = cut_at_silences([frames], FrontEndConfig(), SegmentConfig(1.0, 4.0, 0.2))
    assert 225 <= len(first) <= 245
