"""Streams: the events do not depend on the pieces, utterances end at pauses, and the text is that of the file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import edge_stt
from edge_stt.audio import read_audio
from edge_stt.endpointing import PRESETS
from edge_stt.streaming import EndpointConfig, Final, GateConfig, Partial, StreamingTranscriber

from .conftest import DEMO

SILENCE = np.random.default_rng(0).normal(0, 1e-4, 32_000).astype(np.float32)


@pytest.fixture(scope="module")
def transcriber() -> edge_stt.Transcriber:
    return edge_stt.load_model()


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read_audio(DEMO)


def events(transcriber: edge_stt.Transcriber, audio: np.ndarray, size: int) -> list[Partial | Final]:
    stream = StreamingTranscriber(transcriber)
    out = [e for start in range(0, len(audio), size) for e in stream.accept_audio(audio[start : start + size])]
    return out + stream.finish()


def gated(transcriber: edge_stt.Transcriber, audio: np.ndarray, size: int, **endpoint: float) -> list[Partial | Final]:
    stream = StreamingTranscriber(transcriber, EndpointConfig(**endpoint), GateConfig())
    out = [e for start in range(0, len(audio), size) for e in stream.accept_audio(audio[start : start + size])]
    return out + stream.finish()


def finals(found: list[Partial | Final]) -> list[Final]:
    return [event for event in found if isinstance(event, Final)]


def test_finals_do_not_depend_on_the_pieces(transcriber: edge_stt.Transcriber, speech: np.ndarray) -> None:
    whole = finals(events(transcriber, speech, len(speech)))
    assert whole
    for size in (160, 1_111, 16_000):
        assert finals(events(transcriber, speech, size)) == whole


def test_partials_come_before_their_final_and_grow(transcriber: edge_stt.Transcriber, speech: np.ndarray) -> None:
    found = events(transcriber, speech, 1_600)
    partials = [event for event in found if isinstance(event, Partial)]
    assert len(partials) >= 5
    assert isinstance(found[-1], Final)
    assert len(partials[-1].text) > len(partials[0].text)
    assert all(a.text != b.text for a, b in itertools.pairwise(partials))


def test_the_text_is_close_to_that_of_the_file(transcriber: edge_stt.Transcriber, speech: np.ndarray) -> None:
    jiwer = pytest.importorskip("jiwer", reason="needs the bench extra")
    streamed = " ".join(event.text for event in finals(events(transcriber, speech, 1_600)))
    assert jiwer.cer(transcriber.transcribe(speech).text, streamed) < 0.3


def test_a_pause_ends_an_utterance(transcriber: edge_stt.Transcriber, speech: np.ndarray) -> None:
    audio = np.concatenate([speech, SILENCE, speech, SILENCE])
    found = finals(events(transcriber, audio, 1_600))
    middle = (len(speech) + len(SILENCE) / 2) / 16_000
    assert [event for event in found if event.end < middle + 1.5]
    assert [event for event in found if event.start > middle - 1.5]
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    words = [word for event in found for word in event.words]
    assert all(a.start <= b.start for a, b in itertools.pairwise(words))
    assert words[-1].end <= len(audio) / 16_000


def test_an_utterance_has_an_end_even_without_a_pause(transcriber: edge_stt.Transcriber, speech: np.ndarray) -> None:
    stream = StreamingTranscriber(transcriber, EndpointConfig(trailing_silence=60.0, longest=2.0))
    found = finals(stream.accept_audio(speech) + stream.finish())
    assert len(found) >= 3
    assert all(event.end - event.start <= 2.01 for event in found[:-1])
    late = transcriber.info.lookahead * transcriber.frame_seconds  # what the network had heard and not yet spoken of
    assert found[-1].end - found[-1].start <= 2.01 + late


def test_no_audio_gives_nothing(transcriber: edge_stt.Transcriber) -> None:
    stream = StreamingTranscriber(transcriber)
    assert stream.accept_audio(np.empty(0, np.float32)) == []
    assert stream.finish() == []


@pytest.fixture(scope="module")
def spoken_twice(speech: np.ndarray) -> np.ndarray:
    """Speech after four seconds of a quiet room, and again after four more."""
    room = np.concatenate([SILENCE, SILENCE])
    return np.concatenate([room, speech, room, speech, room])


def test_with_a_gate_finals_do_not_depend_on_the_pieces(
    transcriber: edge_stt.Transcriber, spoken_twice: np.ndarray
) -> None:
    whole = finals(gated(transcriber, spoken_twice, len(spoken_twice)))
    assert len(whole) >= 2
    assert finals(gated(transcriber, spoken_twice, 1_111)) == whole


def test_the_gate_leaves_words_whole(transcriber: edge_stt.Transcriber, spoken_twice: np.ndarray) -> None:
    jiwer = pytest.importorskip("jiwer", reason="needs the bench extra")
    without = " ".join(event.text for event in finals(events(transcriber, spoken_twice, 1_600)))
    with_gate = " ".join(event.text for event in finals(gated(transcriber, spoken_twice, 1_600)))
    assert jiwer.wer(without, with_gate) < 0.2


def test_the_network_sleeps_while_it_is_quiet(transcriber: edge_stt.Transcriber, speech: np.ndarray) -> None:
    stream = StreamingTranscriber(transcriber, gate=GateConfig())
    fan = np.random.default_rng(1).normal(0, 0.01, 160_000).astype(np.float32)
    asleep = []
    for start in range(0, len(fan), 1_600):
        assert stream.accept_audio(fan[start : start + 1_600]) == []
        asleep.append(stream.asleep)
    assert all(asleep[50:])  # five seconds after it was turned on, a fan is silence
    stream.accept_audio(speech + fan[: len(speech)])
    assert not stream.asleep
    assert stream.speaking


def test_the_gate_ends_utterances_sooner(transcriber: edge_stt.Transcriber, spoken_twice: np.ndarray) -> None:
    def delay(found: list[Partial | Final]) -> float:
        first = next(event for event in finals(found) if event.reason == "pause")
        return first.heard - first.words[-1].end

    without = delay(events(transcriber, spoken_twice, 1_600))
    with_gate = delay(gated(transcriber, spoken_twice, 1_600))
    assert 0.7 < with_gate < without - 0.1


@pytest.mark.parametrize("decoder", ["greedy", "lexicon"])
def test_stable_words_stay(speech: np.ndarray, decoder: str) -> None:
    found = events(edge_stt.load_model(decoder=decoder), speech, 1_600)
    partials = [event for event in found if isinstance(event, Partial)]
    (last,) = [event.text.split() for event in finals(found)]
    assert max(event.stable for event in partials) >= 5
    for event in partials:
        assert last[: event.stable] == event.text.split()[: event.stable]


def test_shortest_keeps_an_utterance_open(transcriber: edge_stt.Transcriber, spoken_twice: np.ndarray) -> None:
    assert len(finals(gated(transcriber, spoken_twice, 1_600, shortest=16.0, longest=30.0))) == 1


def test_every_preset_ends_later_the_longer_it_waits() -> None:
    waits = [PRESETS[name].silence_needed(2.0) for name in ("aggressive", "default", "relaxed")]
    assert waits == sorted(waits)
    for preset in PRESETS.values():
        assert preset.silence_needed(preset.longest) == pytest.approx(preset.shortest_pause)
