"""What decoding costs and gives, on log-probabilities computed once: other decoders, beam widths, hot words.

For docs/decoding.md, and for whoever wants to know it of a model of their own: ``edge-stt decoder study``.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .audio import read_audio
from .beam import BeamDecoder
from .beam_config import BeamConfig
from .benchmark import TestSet
from .decoders import Decoder, DecodingConfig, build_decoder
from .decoding import Hypothesis, LogProbs, greedy
from .features import log_mel, normalise_utterance
from .hotwords import HotWords
from .interpreter import AcousticModel
from .package import ModelPackage
from .scoring import Counts, count_edits, percent, total
from .units import BLANK, SEPARATOR, UnitSet

N_BEST = 16
HOT_WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Utterance:
    """A clip's normalised text, its length in seconds, and log-probabilities by head, float32 ``[frames, units]``."""

    text: str
    seconds: float
    log_probs: dict[str, LogProbs]


@dataclass(frozen=True)
class Row:
    """One decoder: errors in characters or words, CPU milliseconds per second of audio, errors of the best of n."""

    name: str
    counts: Counts
    milliseconds: float
    oracle: Counts | None = None


@dataclass(frozen=True)
class HotRow:
    """Hot words of one weight: how many were found, how often one was written where none was said, other words."""

    weight: float
    said: int
    found: int
    invented: int
    others: Counts


def listen(package: ModelPackage, test_set: TestSet) -> list[Utterance]:
    """Run the acoustic model over all clips."""
    acoustic, info = AcousticModel(package), package.info
    heard = []
    for clip, text in zip(test_set.clips, test_set.references, strict=True):
        samples = read_audio(clip.path)
        frames = normalise_utterance(log_mel(samples, info.front_end), info.statistics, info.normalization)
        heard.append(Utterance(text, len(samples) / info.front_end.sample_rate, acoustic.offline(frames)))
    return heard


def without_words(utterances: Sequence[Utterance], head: str, units: UnitSet, beam_width: int) -> Iterator[Row]:
    """Character errors without lexicon and language model: greedy, this search, other libraries' where installed."""
    decoder = BeamDecoder(units, BeamConfig(beam_width=beam_width))
    decoders: dict[str, Callable[[LogProbs], str]] = {
        "greedy": lambda x: greedy(x, units).text,
        f"beam {beam_width}": lambda x: decoder.decode(x)[0].text,
    }
    for name, make in (("pyctcdecode", _pyctcdecode), ("flashlight-text", _flashlight)):
        other = make(units, beam_width)
        if other is not None:
            decoders[f"{name}, beam {beam_width}"] = other
    for name, decode in decoders.items():
        texts, spent = _timed(decode, (u.log_probs[head] for u in utterances))
        counts = [count_edits(list(u.text), list(text)) for u, text in zip(utterances, texts, strict=True)]
        yield Row(name, total(counts), _per_second(spent, utterances))


def with_words(
    package: ModelPackage, config: DecodingConfig, utterances: Sequence[Utterance], widths: Sequence[int]
) -> Iterator[Row]:
    """Word errors with the package's lexicon and language model, and of the best of the `N_BEST` readings."""
    for width in widths:
        settings = replace(config, beam=replace(config.beam, beam_width=width))
        decoder = build_decoder(package, settings)
        found, spent = _timed(partial(_n_best, decoder), (u.log_probs[config.head] for u in utterances))
        best, oracle = [], []
        for utterance, hypotheses in zip(utterances, found, strict=True):
            counts = [count_edits(utterance.text.split(), h.text.split()) for h in hypotheses]
            best.append(counts[0])
            oracle.append(min(counts, key=lambda c: c.errors))
        yield Row(f"beam {width}", total(best), _per_second(spent, utterances), total(oracle))


def boosting(
    package: ModelPackage, config: DecodingConfig, utterances: Sequence[Utterance], words: Sequence[str]
) -> Iterator[HotRow]:
    """What it costs other words that ``words`` are hot, at each of `HOT_WEIGHTS`."""
    hot = set(words)
    for weight in HOT_WEIGHTS:
        decoder = build_decoder(package, config, HotWords((w, weight) for w in words) if weight else None)
        said = found = invented = 0
        others = []
        for utterance in utterances:
            text = _n_best(decoder, utterance.log_probs[config.head])[0].text.split()
            wanted, got = (Counter(w for w in ws if w in hot) for ws in (utterance.text.split(), text))
            said += wanted.total()
            found += (wanted & got).total()
            invented += (got - wanted).total()
            rest = [[w for w in ws if w not in hot] for ws in (utterance.text.split(), text)]
            others.append(count_edits(*rest))
        yield HotRow(weight, said, found, invented, total(others))


def rare_words(utterances: Sequence[Utterance], count: int) -> list[str]:
    """Words that a user would name: of at least six letters, said once, at even distances through the alphabet."""
    said = Counter(word for u in utterances for word in u.text.split())
    once = sorted(word for word, times in said.items() if times == 1 and len(word) >= 6)
    places = np.linspace(0, len(once) - 1, min(count, len(once))).astype(int)
    return [once[i] for i in places]


def table(rows: Iterable[Row], unit: str) -> Iterator[str]:
    """Markdown, a line at a time; ``unit`` is what errors are counted in (CER, WER)."""
    yield f"| decoder | {unit} | {unit} of the best of {N_BEST} | ms per second of audio |"
    yield "|---|---|---|---|"
    for row in rows:
        oracle = f"{percent(row.oracle):.2f} %" if row.oracle else ""
        yield f"| {row.name} | {percent(row.counts):.2f} % | {oracle} | {row.milliseconds:.2f} |"


def hot_table(rows: Iterable[HotRow]) -> Iterator[str]:
    """Markdown, a line at a time."""
    yield "| weight | hot words found | invented | WER of all other words |"
    yield "|---|---|---|---|"
    for row in rows:
        share = 100 * row.found / max(1, row.said)
        yield f"| {row.weight:g} | {share:.1f} % of {row.said} | {row.invented} | {percent(row.others):.2f} % |"


def _n_best(decoder: Decoder, log_probs: LogProbs) -> list[Hypothesis]:
    return decoder.finish(decoder.advance(decoder.start(), log_probs), N_BEST)


def _timed(decode: Callable[[LogProbs], Any], inputs: Iterable[LogProbs]) -> tuple[list[Any], float]:
    """Results, and CPU seconds; the first utterance is decoded once before, to warm up."""
    pieces = list(inputs)
    decode(pieces[0])
    start = time.process_time()
    results = [decode(piece) for piece in pieces]
    return results, time.process_time() - start


def _per_second(spent: float, utterances: Sequence[Utterance]) -> float:
    return 1000.0 * spent / sum(u.seconds for u in utterances)


def _pyctcdecode(units: UnitSet, beam_width: int) -> Callable[[LogProbs], str] | None:
    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)  # it misses kenlm, which nothing here needs
    try:
        module = importlib.import_module("pyctcdecode")
    except ImportError:
        return None
    decoder = module.build_ctcdecoder(["", *units.symbols[1:]])
    return lambda x: " ".join(str(decoder.decode(x, beam_width=beam_width)).split())


def _flashlight(units: UnitSet, beam_width: int) -> Callable[[LogProbs], str] | None:
    try:
        module = importlib.import_module("flashlight.lib.text.decoder")
    except ImportError:
        return None
    options = module.LexiconFreeDecoderOptions(
        beam_width, len(units) - 1, 10.0, 0.0, 0.0, True, module.CriterionType.CTC
    )
    decoder = module.LexiconFreeDecoder(options, module.ZeroLM(), SEPARATOR, BLANK, [])

    def decode(log_probs: LogProbs) -> str:
        path = decoder.decode(np.ascontiguousarray(log_probs).ctypes.data, *log_probs.shape)[0].tokens
        merged = [unit for unit, _ in itertools.groupby(path) if unit > BLANK]
        return " ".join("".join(units.symbols[u] for u in merged).split())

    return decode
