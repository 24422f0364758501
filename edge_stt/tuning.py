"""Give a package what decoding needs, and choose its weights on a dev set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .decoders import LETTERS_FILE, LEXICON_FILE, LM_FILE, PRONUNCIATION_FILE, DecodingConfig, build_decoder
from .decoding import LogProbs
from .errors import DataError
from .letter_lm import LetterModel, load_letters, load_words
from .lexicon import Lexicon
from .package import INFO_FILE, ModelPackage, write_package
from .pronunciation import Pronouncer

# Searched one after the other, each around the best so far: (setting, steps to either side).
STEPS: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("prior_weight", (-0.15, 0.15, 0.3)),
    ("lm_weight", (-0.3, -0.15, 0.15, 0.3)),
    ("word_insertion_bonus", (-1.0, -0.5, 0.5, 1.0)),
    ("unknown_word_score", (-5.0, 5.0)),
)
LETTER_STEPS: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("letter_bonus", (-0.4, -0.2, 0.2, 0.4)),
    ("prior_weight", (-0.15, 0.15, 0.3)),
    ("letter_weight", (-0.1, 0.1, 0.2)),
)
ROUNDS = 4


def log_priors(utterances: Sequence[tuple[LogProbs, str]]) -> tuple[float, ...]:
    """Log of the mean probability of each unit over all frames of all utterances."""
    mean = np.concatenate([np.exp(log_probs) for log_probs, _ in utterances]).mean(axis=0)
    return tuple(round(float(x), 4) for x in np.log(mean + 1e-6))


def _setting(config: DecodingConfig, name: str) -> float:
    return float(getattr(config if name == "prior_weight" else config.beam, name))


def _with_setting(config: DecodingConfig, name: str, value: float) -> DecodingConfig:
    if name == "prior_weight":
        return replace(config, prior_weight=value)
    return replace(config, beam=replace(config.beam, **{name: value}))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Tried:
    """Settings and the word error rate (0..1) they gave."""

    config: DecodingConfig
    wer: float


def attach(
    package: ModelPackage,
    out: Path,
    lexicon: Path | None = None,
    lm: Path | None = None,
    pronunciations: Path | None = None,
    decoding: DecodingConfig | None = None,
    overwrite: bool = False,
    letters: Path | None = None,
) -> ModelPackage:
    """Write ``package`` to ``out`` with a lexicon, a language model (of words, of letters) or other decoding settings.

    What else is set in it stays: calibrations, and weights as a place for `tune` to begin.

    Raises `EdgeSttError` when a file is not what it should be or its units are not the model's.
    """
    if lm is not None:
        load_words(lm)
    if letters is not None:
        LetterModel(load_letters(letters), package.info.heads[package.info.default_head], 1.0, 0.0)
    if pronunciations is not None:
        Pronouncer.load(pronunciations)
    heads = _heads_of(package, lexicon) if lexicon is not None else []
    files = {name: package.read(name) for name in package.files}
    added = {LEXICON_FILE: lexicon, LM_FILE: lm, LETTERS_FILE: letters, PRONUNCIATION_FILE: pronunciations}
    files |= {name: path.read_bytes() for name, path in added.items() if path is not None}
    info = package.info
    if heads and decoding is None:
        own = DecodingConfig.of(package)
        if own.head != heads[0]:  # whose priors are of no use
            own = replace(own, head=heads[0], prior_weight=0.0, log_priors=())
        decoding = replace(own, decoder="lexicon")
    if decoding is not None:
        info = replace(info, decoding=decoding.to_data())
    files.pop(INFO_FILE, None)
    return write_package(out, info, files, overwrite)


def _heads_of(package: ModelPackage, lexicon: Path) -> list[str]:
    """The heads whose units a lexicon is written in; raises `DataError` where there is none."""
    units = Lexicon.load(lexicon).units
    heads = [head for head, own in package.info.heads.items() if own.symbols == units.symbols]
    if not heads:
        raise DataError(f"{lexicon} is written in {units.name!r}; the model speaks {', '.join(package.info.heads)}")
    return heads


def tune(
    package: ModelPackage,
    utterances: Sequence[tuple[LogProbs, str]],
    word_errors: Callable[[str, str], int],
    start: DecodingConfig | None = None,
) -> Iterator[Tried]:
    """Search the weights of the language model (where ``start`` has the decoder ``beam``, of that of letters) by
    coordinates; yields what is tried, the best last.

    ``utterances`` are log-probabilities of the decoding head (float32 ``[frames, units]``) and normalised texts.
    """
    words = sum(len(text.split()) for _, text in utterances)
    if not words:
        raise DataError("there are no words to tune on")

    def measure(config: DecodingConfig) -> Tried:
        decoder = build_decoder(package, config)
        errors = 0
        for log_probs, text in utterances:
            state = decoder.advance(decoder.start(), log_probs)
            errors += word_errors(text, decoder.finish(state)[0].text)
        return Tried(config, errors / words)

    config = start or DecodingConfig.of(package)
    if config.decoder in ("lexicon", "beam"):
        config = replace(config, log_priors=log_priors(utterances))
    best = measure(config)
    yield best
    seen = {best.config}
    for _ in range(ROUNDS):
        before = best
        for name, steps in LETTER_STEPS if config.decoder == "beam" else STEPS:
            if name == "prior_weight" and not best.config.log_priors:
                continue
            centre = _setting(best.config, name)
            for step in steps:
                value = round(centre + step, 3)
                if value < 0 and name in ("lm_weight", "prior_weight", "letter_weight"):
                    continue
                config = _with_setting(best.config, name, value)
                if config in seen:
                    continue
                seen.add(config)
                tried = measure(config)
                yield tried
                if tried.wer < best.wer:
                    best = tried
        if best is before:
            break
    yield best
