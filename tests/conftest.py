"""Shared fixtures. Tests marked ``workstation`` need TensorFlow and say so when it is missing."""

from __future__ import annotations

import importlib.util
import io
import signal
from pathlib import Path

import numpy as np
import pytest

from edge_stt.features import FeatureStatistics, FrontEndConfig, NormalizationConfig
from edge_stt.package import ModelInfo, StreamInfo
from edge_stt.units import ARPABET, ENGLISH_CHARACTERS

ROOT = Path(__file__).parent.parent
DATA = ROOT / "edge_stt" / "data"
DEMO = DATA / "demo.opus"


# What a shell starts in the background ignores Ctrl-C, and so would all programs that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        skip = pytest.mark.skip(reason="needs TensorFlow: pip install -e '.[train]'")
        for item in items:
            if "workstation" in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def statistics() -> FeatureStatistics:
    rng = np.random.default_rng(3)
    return FeatureStatistics(rng.normal(-6.0, 1.0, 80).astype(np.float32), rng.uniform(1.0, 2.5, 80).astype(np.float32))


@pytest.fixture
def info(statistics: FeatureStatistics) -> ModelInfo:
    return ModelInfo(
        name="test",
        architecture={"family": "conv", "parameters": 1},
        front_end=FrontEndConfig(),
        normalization=NormalizationConfig(),
        statistics=statistics,
        heads={"characters": ENGLISH_CHARACTERS, "phonemes": ARPABET},
        default_head="characters",
        stride=4,
        lookahead=8,
        stream=StreamInfo(16, {"state_00": (1, 3, 80)}),
        quantization="dynamic",
        run="test@1",
        licence="CC0-1.0",
    )


@pytest.fixture
def package_files() -> dict[str, bytes]:
    buffer = io.BytesIO()
    np.savez(buffer, log_mel=np.zeros((1, 4, 80), np.float32))
    return {"model.tflite": b"not run in these tests", "golden.npz": buffer.getvalue(), "MODEL_CARD.md": b"# test\n"}
