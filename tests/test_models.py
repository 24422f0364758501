"""The architectures: shapes, padding that changes nothing, and streams that equal the whole utterance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stt.errors import DataError

from .conftest import ROOT

pytestmark = pytest.mark.workstation
HEADS = {"characters": 29, "phonemes": 41}
LENGTHS = (1, 3, 16, 201)


def _network(kind: str) -> Any:
    """A small network with weights that are nobody's defaults, normalisation statistics included."""
    from train.models.base import build_network
    from train.models.conv import ConvConfig
    from train.models.ds2 import DS2Config

    configs = {
        "conv": ConvConfig(stem_channels=16, channels=32, blocks=2),
        "conv branched": ConvConfig(stem_channels=16, channels=32, blocks=3, branches={"phonemes": 1}),
        "conv of one stride": ConvConfig(stem_channels=16, channels=32, blocks=2, strides=(4,)),
        "ds2": DS2Config(conv_channels=(4, 4), recurrent_layers=2, recurrent_units=24),
        "ds2 streaming": DS2Config(
            conv_channels=(4, 4), recurrent_layers=2, recurrent_units=24, bidirectional=False, lookahead=5
        ),
    }
    network = build_network(configs[kind], HEADS)
    rng = np.random.default_rng(1)
    for variable in network.training_model().variables:
        if "moving_variance" in variable.path or "gamma" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("moving_mean", "beta", "bias")):
            variable.assign(rng.normal(0.0, 0.2, variable.shape))
    return network


@pytest.fixture(scope="module", params=["conv", "conv branched", "conv of one stride", "ds2", "ds2 streaming"])
def network(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("tensorflow", reason="needs the train extra")
    return _network(request.param)


@pytest.fixture(scope="module", params=["conv", "conv branched", "conv of one stride", "ds2 streaming"])
def streaming(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("tensorflow", reason="needs the train extra")
    return _network(request.param)


def _clip(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).normal(size=(frames, 80)).astype(np.float32)


def _padded(frames: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([frames, np.zeros((count - len(frames), 80), np.float32)])


def _offline(model: Any, frames: np.ndarray) -> dict[str, np.ndarray]:
    count = -(-len(frames) // 4) * 4
    return {head: x.numpy()[0] for head, x in model(_padded(frames, count)[None], training=False).items()}


def test_offline_gives_one_row_of_log_probabilities_a_stride(network: Any) -> None:
    model = network.offline_model()
    for length in LENGTHS:
        for head, log_probs in _offline(model, _clip(length)).items():
            assert log_probs.shape == (-(-length // 4), HEADS[head])
            np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1.0, atol=1e-5)


def test_padding_changes_nothing(network: Any) -> None:
    """A clip in a batch of longer ones has the log-probabilities that it has alone.

    Not so the last frames of the convolutional family, within its lookahead of the end: inside of a pair of
    convolutions its training graph does not mask, and the second one sees what the first makes of the padding.
    """
    unlike = network.lookahead if type(network).__name__ == "ConvCTC" else 0
    training, offline = network.training_model(), network.offline_model()
    clips = [_clip(length) for length in (80, 201, 40, 120)]
    lengths = [-(-len(clip) // 4) for clip in clips]
    batch = np.stack([_padded(clip, 204) for clip in clips])
    mask = (np.arange(51)[None, :, None] < np.array(lengths)[:, None, None]).astype(np.float32)
    logits = training([batch, mask], training=False)
    for head, units in HEADS.items():
        assert logits[head].shape == (len(clips), 51, units)
    for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        for head, expected in _offline(offline, clip).items():
            found = logits[head].numpy()[row, :length]
            found = found - np.logaddexp.reduce(found, axis=-1, keepdims=True)
            certain = slice(0, length - unlike)
            np.testing.assert_allclose(found[certain], expected[certain], atol=2e-5)


def test_every_weight_learns(network: Any) -> None:
    import tensorflow as tf

    model = network.training_model()
    with tf.GradientTape() as tape:
        logits = model([_clip(80)[None], np.ones((1, 20, 1), np.float32)], training=True)
        loss = tf.add_n([tf.reduce_sum(tf.nn.log_softmax(x)[..., 3]) for x in logits.values()])
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        assert gradient is not None, variable.path
        assert float(tf.reduce_max(tf.abs(gradient))) > 0.0, variable.path


@pytest.mark.parametrize("chunk", [4, 16, 64])
def test_a_stream_equals_the_whole(streaming: Any, chunk: int) -> None:
    offline, stream = streaming.offline_model(), streaming.stream_model(chunk)
    for length in LENGTHS:
        clip = _clip(length)
        expected = _offline(offline, clip)
        for head, log_probs in _streamed(streaming, stream, clip, chunk).items():
            np.testing.assert_allclose(log_probs, expected[head], atol=2e-5, err_msg=f"{head}, {length} frames")


def _streamed(network: Any, model: Any, clip: np.ndarray, chunk: int) -> dict[str, np.ndarray]:
    """The whole clip in chunks; ``end`` is told with the last chunk and not before, zeros flush the lookahead."""
    states = {name: np.zeros(shape, np.float32) for name, shape in network.state_shapes().items()}
    end, step = -(-len(clip) // 4), chunk // 4
    outputs: dict[str, list[np.ndarray]] = {head: [] for head in HEADS}
    position = 0
    while position < end + network.lookahead:
        piece = clip[4 * position : 4 * position + chunk]
        last = 4 * position + chunk >= len(clip)
        limits = np.array([position], np.int32), np.array([end if last else 2**30], np.int32)
        out = model([_padded(piece, chunk)[None], *limits, *states.values()], training=False)
        states = {name: out[name].numpy() for name in states}
        for head in HEADS:
            outputs[head].append(out[head].numpy()[0])
        position += step
    late = network.lookahead
    return {head: np.concatenate(pieces)[late : late + end] for head, pieces in outputs.items()}


def test_the_bidirectional_form_does_not_stream() -> None:
    network = _network("ds2")
    assert network.lookahead == -1
    assert network.stream_model(16) is None
    assert network.state_shapes() == {}


def test_bidirectional_sees_the_end_from_the_start() -> None:
    model = _network("ds2").offline_model()
    clip = _clip(60)
    changed = clip.copy()
    changed[-8:] += 1.0
    first, second = (_offline(model, c)["characters"][0] for c in (clip, changed))
    assert np.abs(first - second).max() > 0.0


def test_lookahead_is_what_the_network_says(streaming: Any) -> None:
    """A change of the input reaches outputs as far back as ``lookahead``, and none before."""
    model = streaming.offline_model()
    clip = _clip(400)
    changed = clip.copy()
    changed[200:] += 1.0
    first, second = (_offline(model, c)["characters"] for c in (clip, changed))
    differs = np.flatnonzero(np.abs(first - second).max(axis=-1) > 1e-6)
    assert differs[0] == 50 - streaming.lookahead


@pytest.mark.parametrize("strides", [(3,), (2, 2, 2), (5,), (1, 2)])
def test_other_strides(strides: tuple[int, ...]) -> None:
    pytest.importorskip("tensorflow", reason="needs the train extra")
    from train.models.conv import ConvConfig, ConvCTC

    network = ConvCTC(ConvConfig(stem_channels=8, channels=16, blocks=1, strides=strides), HEADS)
    stride = network.stride
    assert stride == int(np.prod(strides))
    offline, stream = network.offline_model(), network.stream_model(2 * stride)
    clip = _clip(6 * stride)
    whole = offline(clip[None], training=False)["characters"].numpy()[0]
    assert whole.shape == (6, HEADS["characters"])
    states = {name: np.zeros(shape, np.float32) for name, shape in network.state_shapes().items()}
    assert len(stream.inputs) == 3 + len(states)
    found = []
    for position in range(0, 6 + network.lookahead, 2):
        piece = _padded(clip[stride * position : stride * (position + 2)], 2 * stride)
        limits = np.array([position], np.int32), np.array([6], np.int32)
        out = stream([piece[None], *limits, *states.values()], training=False)
        states = {name: out[name].numpy() for name in states}
        found.append(out["characters"].numpy()[0])
    np.testing.assert_allclose(np.concatenate(found)[network.lookahead :][:6], whole, atol=2e-5)


def test_the_full_deepspeech2() -> None:
    from train.config import load_config
    from train.models.base import build_network
    from train.models.ds2 import DS2Config

    config = load_config(Path(ROOT / "train" / "configs" / "ds2.toml"))
    assert isinstance(config.model, DS2Config)
    assert 3 <= config.model.recurrent_layers <= 5
    assert build_network(config.model, HEADS).offline_model().count_params() >= 5_000_000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.recurrent_layers=0", "above 0"),
        ("model.conv_channels=[32]", "two values"),
        ("model.time_kernel=1", "at least 2"),
        ("model.lookahead=0", "lookahead"),
        ("model.dropout=1.0", "dropout"),
        ("model.channels=3", "unknown key"),
    ],
)
def test_impossible_sizes_are_refused(override: str, message: str) -> None:
    pytest.importorskip("keras", reason="needs the train extra")
    from train.config import load_config

    with pytest.raises(DataError, match=message):
        load_config(None, ["model.family=ds2", override])
