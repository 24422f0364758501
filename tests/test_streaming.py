"""Streams: the events do not depend on the pieces, utterances end at pauses, and the text is that of the file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import edge_stt
from edge_stt.audio import read_audio
from edge_stt.streaming import EndpointConfig, Final, Partial, StreamingTranscriber

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
    assert all(event.end - event.start <= 2.01 for event in found)


def test_no_audio_gives_nothing(transcriber: edge_stt.Transcriber) -> None:
    stream = StreamingTranscriber(transcriber)
    assert stream.accept_audio(np.empty(0, np.float32)) == []
    assert stream.finish() == []
