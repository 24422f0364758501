"""How well phrases are recognised and other speech is rejected, and the settings that do both best.

In a manifest, a clip whose text is one of the phrases should be recognised, and every other clip rejected. For the
fit, each of the former is also decoded without its phrase in the grammar: what then comes nearest is a mistake that
another phrase makes, *on* for *off*, and harder to reject than other speech.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .acceptor import Speller
from .audio import SAMPLE_RATE, read_audio
from .benchmark import TestSet
from .corpora import Clip, read_corpus
from .decoding import LogProbs
from .errors import DataError
from .features import Floats, log_mel
from .logistic import fit_logistic, probability
from .phrases import Match, PhraseConfig, PhraseDecoder
from .recogniser import Transcriber

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Counts:
    """What became of the clips of a set: ``phrases`` that were said in it, and ``others``, which are not phrases.

    ``right`` phrases were recognised with every word, ``wrong`` ones taken for another; ``accepted`` others should
    have been rejected. ``audio`` and ``decoding`` are seconds.
    """

    name: str
    phrases: int = 0
    right: int = 0
    wrong: int = 0
    others: int = 0
    accepted: int = 0
    audio: float = 0.0
    decoding: float = 0.0


def count(transcriber: Transcriber, decoder: PhraseDecoder, test_set: TestSet) -> Counts:
    """Decode all clips of a set."""
    counts = Counts(test_set.name)
    for clip, text in zip(test_set.clips, test_set.references, strict=True):
        samples = read_audio(clip.path)
        log_probs = transcriber.log_probs(log_mel(samples, transcriber.info.front_end))
        started = time.process_time()
        said = decoder.finish(decoder.advance(decoder.start(), log_probs))[0].text
        counts = replace(
            counts,
            audio=counts.audio + len(samples) / SAMPLE_RATE,
            decoding=counts.decoding + time.process_time() - started,
        )
        if decoder.grammar.accepts(text):
            right, wrong = said == text, bool(said) and said != text
            counts = replace(counts, phrases=counts.phrases + 1, right=counts.right + right, wrong=counts.wrong + wrong)
        else:
            counts = replace(counts, others=counts.others + 1, accepted=counts.accepted + bool(said))
    return counts


@dataclass(frozen=True)
class Example:
    """A best phrase for an utterance, and whether it was said: ``phrase``, or ``near`` one, or ``other`` speech."""

    match: Match
    kind: str


class NoiseMixer:
    """Adds noise to speech: of each further clip another noise, at a ratio drawn from ``snr`` (dB, from and to)."""

    def __init__(self, clips: Sequence[Clip], snr: tuple[float, float] = (5.0, 20.0), seed: int = 0) -> None:
        self._clips, self._snr, self._rng = clips, snr, np.random.default_rng(seed)

    def __call__(self, speech: Samples) -> Samples:
        """Speech (float32 ``[n]``) with noise, of the same length."""
        noise = read_audio(self._clips[int(self._rng.integers(len(self._clips)))].path)
        ratio = float(self._rng.uniform(*self._snr))
        offset = int(self._rng.integers(max(1, len(noise))))
        power = float(np.mean(noise**2)) if len(noise) else 0.0
        if power == 0.0:
            return speech
        gain = np.sqrt(float(np.mean(speech**2)) / power / 10 ** (ratio / 10))
        return (speech + gain * np.resize(np.roll(noise, offset), len(speech))).astype(np.float32)


def examples(
    transcriber: Transcriber,
    decoder: PhraseDecoder,
    speller: Speller,
    sets: Iterable[TestSet],
    noise: NoiseMixer | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Example]:
    """What the fit is made from; with ``noise``, each clip a second time with noise."""
    grammar = decoder.grammar

    def heard(samples: Samples) -> LogProbs:
        frames: Floats = log_mel(samples, transcriber.info.front_end)
        return transcriber.log_probs(frames)

    for test_set in sets:
        for clip, text in zip(test_set.clips, test_set.references, strict=True):
            progress()
            samples = read_audio(clip.path)
            versions = [heard(samples)] + ([heard(noise(samples))] if noise is not None else [])
            if not grammar.accepts(text):
                yield from (Example(match, "other") for x in versions for match in _matches(decoder, x))
                continue
            yield from (Example(m, "phrase") for x in versions for m in _matches(decoder, x) if m.text == text)
            others = grammar.without(text)
            if others is not None:
                rest = PhraseDecoder(others, speller, decoder.config, decoder.frames_per_second)
                yield from (Example(match, "near") for x in versions for match in _matches(rest, x))


def _matches(decoder: PhraseDecoder, log_probs: LogProbs) -> list[Match]:
    utterances = decoder.utterances(decoder.advance(decoder.start(), log_probs))
    return [utterance.match for utterance in utterances if utterance.match is not None]


def fit(found: Sequence[Example], config: PhraseConfig) -> PhraseConfig:
    """The weights that make the score a probability, by logistic regression, and the best threshold.

    Phrases count for as much as all else, near phrases and other speech each for half of that; of thresholds that
    make equally few errors the middle counts. Raises `DataError` when there are no phrases, or nothing else.
    """
    kinds = np.array([example.kind for example in found])
    shares = {"phrase": 0.5, "near": 0.25, "other": 0.25}
    if not (kinds == "phrase").any():
        raise DataError("no clip was recognised as a phrase: give a manifest with clips of the file's phrases")
    if not (kinds != "phrase").any():
        raise DataError("all clips are phrases, and there is only one: give a manifest of other speech too")
    weight = np.zeros(len(found))
    for kind, share in shares.items():
        if (kinds == kind).any():
            weight[kinds == kind] = share / (kinds == kind).sum()
    said = kinds == "phrase"
    weight[~said] *= weight[said].sum() / weight[~said].sum()
    weight *= len(found)
    behind = np.array([[-1.0, example.match.overall, example.match.worst] for example in found])
    offset, overall, worst = _weights(behind, said, weight)
    config = replace(config, offset=round(offset, 3), overall=round(overall, 3), worst=round(worst, 4))
    scores = probability(-behind, np.array([config.offset, config.overall, config.worst]))
    return replace(config, threshold=round(best_threshold(scores, said, weight), 3))


def _weights(
    behind: npt.NDArray[np.float64], said: npt.NDArray[np.bool_], weight: npt.NDArray[np.float64]
) -> tuple[float, float, float]:
    """Weights of the columns of ``behind``; evidence that would count the wrong way round gets none."""
    columns = [0, 1, 2]
    while True:
        weights = fit_logistic(-behind[:, columns], said, weight)
        if (weights[1:] >= 0).all():
            break
        columns.remove(columns[1 + int(weights[1:].argmin())])
    values = dict(zip(columns, weights.tolist(), strict=True))
    return values[0], values.get(1, 0.0), values.get(2, 0.0)


def best_threshold(
    scores: npt.NDArray[np.float64], said: npt.NDArray[np.bool_], weight: npt.NDArray[np.float64]
) -> float:
    """Where fewest go wrong, by weight: phrases below it, and others from it on."""
    order = np.argsort(scores)
    ascending = np.concatenate([[0.0], scores[order], [1.0]])
    # Errors with a threshold between ascending[i] and ascending[i + 1].
    lost = np.concatenate([[0.0], np.cumsum((weight * said)[order])])
    taken = np.concatenate([[0.0], np.cumsum((weight * ~said)[order])])
    errors = lost + taken[-1] - taken
    errors[np.diff(ascending) <= 0] = np.inf
    first = int(np.flatnonzero(errors <= errors.min() + 1e-12)[0])
    return float(ascending[first] + ascending[first + 1]) / 2


def read_noise(path: Path) -> list[Clip]:
    """The clips of a manifest of noise. Raises `DataError` when there are none."""
    clips = list(read_corpus(path, lambda line: None))
    if not clips:
        raise DataError(f"{path} has no clips of noise")
    return clips
