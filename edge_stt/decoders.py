"""The decoders of a model package, by name: ``greedy``, ``beam``, ``lexicon`` and ``phrases``.

All have one surface, `Decoder`: state in, frames in, state out, so that files and streams are decoded alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np

from .acceptor import Speller
from .beam import BeamConfig, BeamDecoder, ConfidenceConfig
from .decoding import Hypothesis, LogProbs, greedy
from .errors import DecodingError, UnknownDecoderError
from .grammar import Grammar
from .hotwords import HotWords
from .lexicon import Lexicon
from .lm import LanguageModel
from .package import ModelPackage
from .phrases import PhraseConfig, PhraseDecoder
from .pronunciation import Pronouncer
from .settings import nearest
from .units import SEPARATOR, UnitSet

LEXICON_FILE, LM_FILE, LETTERS_FILE, PRONUNCIATION_FILE = "lexicon.bin", "words.lm", "letters.lm", "pronunciations.bin"


class Decoder(Protocol):
    """Log-probabilities (float32 ``[frames, units]``) to hypotheses. States are never changed."""

    def start(self) -> Any:
        """The state before the first frame."""
        ...

    def advance(self, state: Any, log_probs: LogProbs) -> Any:
        """The state after more frames; the result does not depend on how they are divided."""
        ...

    def best(self, state: Any) -> Hypothesis:
        """The best reading so far."""
        ...

    def stable_words(self, state: Any) -> int:
        """How many words, from the first, will be the same in every later result."""
        ...

    def finish(self, state: Any, n_best: int = 1) -> list[Hypothesis]:
        """Up to ``n_best`` readings of the whole utterance, the best first."""
        ...


class GreedyDecoder:
    """The likeliest unit of each frame. The state is the frames themselves: an utterance, not an endless stream."""

    def __init__(self, units: UnitSet) -> None:
        self.units = units
        self._known: tuple[tuple[LogProbs, ...], Hypothesis] | None = None  # of the last state

    def start(self) -> tuple[LogProbs, ...]:
        """No frames."""
        return ()

    def advance(self, state: tuple[LogProbs, ...], log_probs: LogProbs) -> tuple[LogProbs, ...]:
        """One piece more."""
        return (*state, log_probs)

    def best(self, state: tuple[LogProbs, ...]) -> Hypothesis:
        """The best path through all pieces."""
        known = self._known  # once: clients of a server share the decoder, each in a thread of its own
        if known is not None and known[0] is state:
            return known[1]
        nothing = np.empty((0, len(self.units)), np.float32)
        best = greedy(np.concatenate([nothing, *state]), self.units)
        self._known = state, best
        return best

    def stable_words(self, state: tuple[LogProbs, ...]) -> int:
        """All words but the one that may go on."""
        best = self.best(state)
        ended = not best.tokens or best.tokens[-1].unit == SEPARATOR
        return len(best.words) - (0 if ended else 1)

    def finish(self, state: tuple[LogProbs, ...], n_best: int = 1) -> list[Hypothesis]:
        """The same, alone in a list: greedy decoding has no second best."""
        return [self.best(state)]


class WithoutPriors:
    """A decoder that sees log-probabilities less ``weight`` times the units' log priors.

    A CTC model says blank, and the words' separator, more often than a search through words likes: it then leaves words
    out. Division by priors is from Y. Miao, M. Gowayyed and F. Metze, EESEN, ASRU 2015.
    """

    def __init__(self, decoder: Decoder, log_priors: Sequence[float], weight: float) -> None:
        self.decoder, self.offset = decoder, np.float32(weight) * np.asarray(log_priors, np.float32)

    def start(self) -> Any:
        """As the inner decoder."""
        return self.decoder.start()

    def advance(self, state: Any, log_probs: LogProbs) -> Any:
        """As the inner decoder, on adjusted and again normalised log-probabilities."""
        adjusted = log_probs - self.offset
        return self.decoder.advance(state, adjusted - np.logaddexp.reduce(adjusted, axis=1, keepdims=True))

    def best(self, state: Any) -> Hypothesis:
        """As the inner decoder."""
        return self.decoder.best(state)

    def stable_words(self, state: Any) -> int:
        """As the inner decoder."""
        return self.decoder.stable_words(state)

    def finish(self, state: Any, n_best: int = 1) -> list[Hypothesis]:
        """As the inner decoder."""
        return self.decoder.finish(state, n_best)


@dataclass(frozen=True)
class DecodingConfig:
    """How a package is decoded: what ``decoding`` in its ``model.json`` says, tuned by `edge-stt decoder tune`.

    ``decoder`` is ``greedy`` (one head, no search), ``beam`` (search without words, with the package's language model
    of letters if it has one), ``lexicon`` (search through the package's lexicon and language model) or ``phrases``
    (search through a grammar); ``head`` is the head it decodes.
    ``log_priors`` are how often the model says each unit of that head, and ``prior_weight`` how much of that the
    lexicon decoder takes off; ``letter_log_priors`` and ``letter_prior_weight`` the same for characters, where the
    decoder ``beam`` has a language model of letters.
    """

    decoder: str = "greedy"
    head: str = "characters"
    prior_weight: float = 0.0
    log_priors: tuple[float, ...] = ()
    beam: BeamConfig = field(default_factory=BeamConfig)
    phrases: PhraseConfig = field(default_factory=PhraseConfig)
    letter_prior_weight: float = 0.0
    letter_log_priors: tuple[float, ...] = ()

    @classmethod
    def of(cls, package: ModelPackage) -> DecodingConfig:
        """The package's own settings; raises `DecodingError` when it names one this version does not know."""
        data = dict(package.info.decoding)
        if not data:
            return cls(head=package.info.default_head)
        known = {f.name for f in fields(BeamConfig)} | {f.name for f in fields(ConfidenceConfig)}
        beam = dict(data.pop("beam", {}))
        confidence = dict(beam.pop("confidence", {}))
        phrases = dict(data.pop("phrases", {}))
        known |= {f.name for f in fields(PhraseConfig)}
        if unknown := sorted({*beam, *phrases, *confidence} - known) or sorted(
            set(data) - {f.name for f in fields(cls)}
        ):
            raise DecodingError(f"the package's decoding settings have {unknown[0]!r}: update edge-stt")
        log_priors, letter_log_priors = (tuple(data.pop(name, ())) for name in ("log_priors", "letter_log_priors"))
        settings = BeamConfig(**beam, confidence=ConfidenceConfig(**confidence))
        return cls(
            **data,
            log_priors=log_priors,
            letter_log_priors=letter_log_priors,
            beam=settings,
            phrases=PhraseConfig(**phrases),
        )

    def to_data(self) -> dict[str, Any]:
        """Plain data for ``model.json``: what differs from the defaults."""
        beam = {k: v for k, v in asdict(self.beam).items() if k != "confidence" and v != getattr(BeamConfig(), k)}
        if self.beam.confidence != ConfidenceConfig():
            beam["confidence"] = asdict(self.beam.confidence)
        data = {**asdict(self), "beam": beam}
        for name in ("log_priors", "letter_log_priors"):
            data[name] = [round(x, 4) for x in data[name]]
        if not self.letter_log_priors:
            del data["letter_log_priors"], data["letter_prior_weight"]
        phrases = {k: v for k, v in data.pop("phrases").items() if v != getattr(PhraseConfig(), k)}
        return {**data, "phrases": phrases} if phrases else data


DECODERS = ("greedy", "beam", "lexicon")  # that are chosen by name; phrases have their own


def check_decoder(name: str) -> None:
    """Raise `UnknownDecoderError` for what is none of `DECODERS`."""
    if name == "phrases":
        raise UnknownDecoderError("the decoder phrases is not chosen by name: give phrases, or greedy, beam or lexicon")
    if name not in DECODERS:
        near = nearest(str(name), DECODERS)
        hint = f"did you mean {near[0]!r}?" if near else "choose greedy, beam or lexicon"
        raise UnknownDecoderError(f"unknown decoder {name!r}; {hint}")


def choose(package: ModelPackage, decoder: str | None = None, beam_width: int | None = None) -> DecodingConfig:
    """The package's settings with another decoder or beam width; raises `DecodingError` for what it cannot do."""
    config = DecodingConfig.of(package)
    if decoder == "greedy":
        config = replace(config, decoder="greedy", head=package.info.default_head)
    elif decoder == "beam":
        weight, priors = config.letter_prior_weight, config.letter_log_priors
        config = replace(config, decoder="beam", head=package.info.default_head, prior_weight=weight, log_priors=priors)
    elif decoder == "lexicon":
        config = replace(config, decoder="lexicon")
    elif decoder == "phrases":
        config = replace(config, decoder="phrases", head=_phrase_head(package, config))
    elif decoder is not None:
        check_decoder(decoder)
    if config.head not in package.info.heads:
        raise DecodingError(f"the model has no head {config.head!r}; it has {', '.join(package.info.heads)}")
    if beam_width is not None:
        config = replace(config, beam=replace(config.beam, beam_width=beam_width))
    return config


def _phrase_head(package: ModelPackage, config: DecodingConfig) -> str:
    """Phonemes where words can be pronounced, else characters."""
    if config.decoder == "lexicon":
        return config.head
    pronounced = PRONUNCIATION_FILE in package.files
    phonemes = [head for head, units in package.info.heads.items() if pronounced and units.kind == "phonemes"]
    return (phonemes or [package.info.default_head])[0]


def build_decoder(
    package: ModelPackage, config: DecodingConfig, hot_words: HotWords | None = None, phrases: Grammar | None = None
) -> Decoder:
    """The decoder for a package's log-probabilities of ``config.head``."""
    units = package.info.heads[config.head]
    if hot_words is not None:
        hot_words = hot_words.written(package.info.normaliser)
    if (phrases is not None) != (config.decoder == "phrases"):
        raise DecodingError("phrases are for the decoder 'phrases', and it for them")
    if phrases is not None:
        if hot_words is not None:
            raise DecodingError("hot words make nothing likelier where only phrases can be said; leave one of them out")
        rate = package.info.front_end.frames_per_second / package.info.stride
        return PhraseDecoder(phrases, make_speller(package, units), config.phrases, rate)
    if config.decoder == "greedy":
        if hot_words is not None:
            raise DecodingError("greedy decoding cannot favour hot words; choose the decoder beam or lexicon")
        return GreedyDecoder(units)
    if config.decoder == "beam":
        letters = LanguageModel.load(package.file(LETTERS_FILE)) if LETTERS_FILE in package.files else None
        free = BeamDecoder(units, config.beam, hot_words=hot_words, letters=letters)
        return _without_priors(free, config, units) if letters is not None else free
    if LEXICON_FILE not in package.files:
        raise DecodingError(f"{package.path} has no lexicon; choose the decoder greedy or beam")
    lm = LanguageModel.load(package.file(LM_FILE)) if LM_FILE in package.files else None
    lexicon = Lexicon.load(package.file(LEXICON_FILE))
    pronouncer = _pronouncer(package) if hot_words is not None else None
    return _without_priors(BeamDecoder(units, config.beam, lexicon, lm, hot_words, pronouncer), config, units)


def _without_priors(decoder: Decoder, config: DecodingConfig, units: UnitSet) -> Decoder:
    """The decoder, with as much of the priors taken off as the settings say."""
    if not config.prior_weight:
        return decoder
    if len(config.log_priors) != len(units):
        raise DecodingError(f"prior_weight needs a prior for each of the {len(units)} units of {config.head!r}")
    return WithoutPriors(decoder, config.log_priors, config.prior_weight)


def _pronouncer(package: ModelPackage) -> Pronouncer | None:
    """What pronounces words that the package's lexicon has not got."""
    return Pronouncer.load(package.file(PRONUNCIATION_FILE)) if PRONUNCIATION_FILE in package.files else None


def make_speller(package: ModelPackage, units: UnitSet) -> Speller:
    """What writes words in the units of a head."""
    if units.kind == "characters":
        return Speller(units)
    lexicon = Lexicon.load(package.file(LEXICON_FILE)) if LEXICON_FILE in package.files else None
    return Speller(units, lexicon, _pronouncer(package))
