"""The shipped model on whichever TFLite runtime is installed: offline, streaming, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_stt.audio import read_audio
from edge_stt.errors import PackageError, RuntimeMissingError
from edge_stt.features import log_mel, normalise_utterance
from edge_stt.interpreter import AcousticModel, find_runtime
from edge_stt.package import ModelPackage, write_package
from edge_stt.recogniser import DEFAULT_MODEL

from .conftest import DEMO


@pytest.fixture(scope="module")
def model() -> AcousticModel:
    return AcousticModel(ModelPackage.load(DEFAULT_MODEL))


@pytest.fixture(scope="module")
def frames(model: AcousticModel) -> np.ndarray:
    raw = log_mel(read_audio(DEMO), model.info.front_end)
    return normalise_utterance(raw, model.info.statistics, model.info.normalization)


def streamed(model: AcousticModel, frames: np.ndarray, size: int) -> dict[str, np.ndarray]:
    stream = model.stream()
    pieces = [stream.accept(frames[start : start + size]) for start in range(0, len(frames), size)]
    pieces.append(stream.finish())
    return {head: np.concatenate([piece[head] for piece in pieces]) for head in model.info.heads}


def test_the_golden_pair(model: AcousticModel) -> None:
    golden = ModelPackage.load(DEFAULT_MODEL).golden()
    out = model.offline(golden["log_mel"][0])
    for head in model.info.heads:
        assert np.abs(out[head] - golden[head][0]).mean() < 0.05
        assert (out[head].argmax(-1) == golden[head][0].argmax(-1)).mean() > 0.95


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 16, 17, 203])
def test_one_output_for_each_stride_of_frames(model: AcousticModel, frames: np.ndarray, count: int) -> None:
    out = model.offline(frames[:count])
    for head, units in model.info.heads.items():
        assert out[head].shape == (-(-count // model.info.stride), len(units))
        np.testing.assert_allclose(np.exp(out[head]).sum(axis=1), 1.0, atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 16, 100, 203, 600])
def test_a_stream_agrees_with_the_whole(model: AcousticModel, frames: np.ndarray, count: int) -> None:
    """Float32 models agree to the last bit; dynamic-range ones scale activations by what a chunk holds."""
    whole, pieces = model.offline(frames[:count]), streamed(model, frames[:count], 23)
    for head in model.info.heads:
        assert pieces[head].shape == whole[head].shape
        if count > 100:
            assert (pieces[head].argmax(-1) == whole[head].argmax(-1)).mean() > 0.9
            assert np.abs(pieces[head] - whole[head]).mean() < 0.25


def test_a_stream_does_not_depend_on_the_pieces(model: AcousticModel, frames: np.ndarray) -> None:
    first = streamed(model, frames, len(frames))
    for size in (1, 7, 160):
        for head, log_probs in streamed(model, frames, size).items():
            np.testing.assert_array_equal(log_probs, first[head])


def test_streams_do_not_disturb_each_other(model: AcousticModel, frames: np.ndarray) -> None:
    alone = streamed(model, frames[:320], 64)
    one, two = model.stream(), model.stream()
    pieces = []
    for start in range(0, 320, 64):
        pieces.append(one.accept(frames[start : start + 64]))
        two.accept(frames[300 - start : 364 - start])
    pieces.append(one.finish())
    for head in model.info.heads:
        np.testing.assert_array_equal(np.concatenate([piece[head] for piece in pieces]), alone[head])


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(RuntimeMissingError, match="unknown"):
        find_runtime("onnx")


def test_a_file_that_is_no_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    package = ModelPackage.load(DEFAULT_MODEL)
    files = {name: package.read(name) for name in package.files}
    broken = write_package(tmp_path / "broken", package.info, {**files, "model.tflite": b"TFL3 it is not" * 100})
    with pytest.raises(PackageError, match="cannot load the model") as caught:
        AcousticModel(broken)
    assert "\n" not in str(caught.value)
    shutil.rmtree(tmp_path / "broken")
