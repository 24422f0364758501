"""The parity gate: what it measures of a file, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stt.scoring import Difference, Interval

from .conftest import DEMO
from .small_run import CONV, small_run

pytestmark = pytest.mark.workstation


def _log_probs(frames: int = 50, units: int = 6) -> Any:
    logits = np.random.default_rng(1).normal(size=(frames, units)).astype(np.float32) * 3
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def test_outputs_are_compared_frame_by_frame() -> None:
    from convert.parity import FLOOR, compare_outputs

    a = _log_probs()
    same = compare_outputs([{"h": a}, {"h": a}], [{"h": a}, {"h": a}])["h"]
    assert (same.frames, same.agreement, same.max_difference) == (100, 1.0, 0.0)
    b = a.copy()
    b[3] = a[3, ::-1]  # one frame of 50 says something else
    assert a[3].argmax() != b[3].argmax()
    other = compare_outputs([{"h": a}], [{"h": b}])["h"]
    assert other.agreement == pytest.approx(0.98)
    assert other.max_difference == pytest.approx(np.abs(a - b).max())
    deep = a.copy()
    deep[:, 0], b = -300.0, a.copy()
    b[:, 0] = FLOOR - 5
    assert compare_outputs([{"h": deep}], [{"h": b}])["h"].max_difference == 0.0, "what nobody looks at does not count"


def _parity(
    mode: str,
    points: float,
    words: int = 5_000,
    stream: tuple[int, float, float] = (9_000, 1.0, 0.0),
    margin: float = 0.1,
) -> Any:
    from convert.parity import HeadParity, Parity, Rates

    rate = Interval(40.0, 38.0, 42.0, "clips")
    change = Difference(points, points - margin, points + margin, 1.0, "clips")
    head = HeadParity(1_000, 0.99, 0.1, 0.01)
    streamed = HeadParity(*stream, 0.0)
    rates = {"greedy": Rates(rate, rate, 40.0, 20.0, change)}
    return Parity(mode, 300, 2_000.0, words, 3_000_000, {"h": head}, rates, {"1": 0.01}, {"h": streamed})


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (("dynamic", 0.29), False),
        (("dynamic", 0.31), True),
        (("int8", 0.99), False),
        (("int8", 1.01), True),
        (("int8", -3.0), False),
        (("int8", 1.5, 5_000, (9_000, 1.0, 0.0), 1.6), False),  # may be chance
        (("int8", 9.0, 50), False),  # too few words to judge
        (("int8", 0.0, 5_000, (9_000, 0.985, 2.0)), True),
        (("int8", 0.0, 5_000, (90, 0.985, 2.0)), False),  # too few frames
        (("float32", 0.0, 5_000, (9_000, 1.0, 1e-3)), True),
        (("float16", 0.0, 5_000, (9_000, 1.0, 1e-3)), False),
    ],
)
def test_limits(arguments: tuple[Any, ...], refused: bool) -> None:
    from convert.parity import Limits, problems

    assert bool(problems(_parity(*arguments), Limits())) == refused


def test_beyond_the_limits_nothing_is_written_unless_forced(tmp_path: Path) -> None:
    from convert.build import BuildConfig, convert_run
    from convert.parity import GateConfig, Limits
    from edge_stt.package import ModelPackage

    run = small_run(tmp_path / "run", **CONV)
    impossible = GateConfig(repeats=1, limits=Limits(stream_agreement=1.01, min_frames=1))
    config = BuildConfig("small", "float32", gate=impossible, force=True)
    (product,) = convert_run(run, tmp_path / "package", config)
    assert product.error is None
    package = ModelPackage.load(tmp_path / "package")
    assert "written by force" in package.read("MODEL_CARD.md").decode()
    assert b'"forced": true' in package.read("parity.json")
    assert package.info.runtimes[0].startswith("ai-edge-litert ")

    config = dataclasses.replace(config, name="new", force=False, overwrite=True)
    (product,) = convert_run(run, tmp_path / "package", config)
    assert product.error is not None
    assert "float32 refused: streaming and offline" in product.error
    assert ModelPackage.load(tmp_path / "package").info.name == "small", "the old one stays"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["package", "run"]


def test_the_gate_on_real_speech(tmp_path: Path) -> None:
    """Text, error rates, speed and streaming of a package against Keras."""
    from convert.build import demo_clips
    from convert.graph import load_run
    from convert.parity import float_log_probs

    model = load_run(small_run(tmp_path / "run", **CONV))
    (clip,) = demo_clips(model)
    assert clip.reference.split()[:4] == DEMO.with_suffix(".txt").read_text().lower().split()[:4]
    outputs = float_log_probs(model, clip.log_mel)
    for head, log_probs in outputs.items():
        assert log_probs.shape == (len(clip.log_mel) // 4, len(model.units[head]))
        np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1.0, atol=1e-5)
