"""Learn pronunciations from CMUdict: align letters with phonemes, then an n-gram over the aligned pairs.

``python -m train.pronunciation OUT`` writes the model that `edge_stt.pronunciation.Pronouncer` reads; with
``--report`` it is first learned without a twentieth of the words and measured on them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edge_stt.errors import DataError, EdgeSttError
from edge_stt.language import Language
from edge_stt.pronunciation import END, START, GraphoneModel, Phonemes, Pronouncer, possessive_ending

from .dictionary import dictionary_of, read_cmudict
from .graphones import Graphone, GraphoneSettings, Lexicon, align, build_model

HELD_OUT = 0.05  # share of the words that a report measures on


def is_held_out(word: str, share: float) -> bool:
    """Whether a word belongs to the held-out share: by its SHA-256, so that it does not depend on the other words."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") < share * 2**32


def learn(lexicon: Lexicon, settings: GraphoneSettings | None = None) -> GraphoneModel:
    """A model of the words of ``lexicon`` with all their variants; raises `DataError` when it has too few."""
    settings = settings or GraphoneSettings()
    pairs = sorted((word, phonemes) for word, variants in lexicon.items() for phonemes in variants)
    if len(pairs) < 100:
        raise DataError(f"a pronunciation model needs at least 100 pronunciations to learn from, not {len(pairs)}")
    aligned = align(pairs, settings)
    uses = Counter(graphone for path in aligned for graphone in path or ())
    kept = [path if path and all(uses[g] >= settings.min_count for g in path) else None for path in aligned]
    graphones: tuple[Graphone, ...] = (("", ()), ("", ()), *sorted({g for path in kept if path for g in path}))
    index = {graphone: i for i, graphone in enumerate(graphones) if i > 1}
    sequences = [[START, *(index[graphone] for graphone in path), END] for path in kept if path]
    unexplained = {word for (word, _), path in zip(pairs, kept, strict=True) if path is None}
    exceptions = {word: tuple(lexicon[word]) for word in sorted(lexicon) if len(word) == 1 or word in unexplained}
    return build_model(sequences, graphones, exceptions, settings)


@dataclass(frozen=True)
class G2PReport:
    """Errors on words that the model has not seen, each against its closest reference variant; times in ms a word."""

    words: int
    phoneme_error_rate: float
    word_error_rate: float
    milliseconds: float


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance of two sequences."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def evaluate(pronouncer: Pronouncer, references: Lexicon) -> G2PReport:
    """Phoneme and word error rate of the first pronunciation."""
    errors = phonemes = wrong = 0
    start = time.perf_counter()
    guesses = {word: pronouncer.pronounce(word)[0].phonemes for word in references}
    spent = time.perf_counter() - start
    for word, variants in references.items():
        distance, length = min((edit_distance(guesses[word], v), len(v)) for v in variants)
        errors, phonemes, wrong = errors + distance, phonemes + length, wrong + (distance > 0)
    n = len(references)
    return G2PReport(n, errors / phonemes, wrong / n, 1000 * spent / n)


def measure(lexicon: Lexicon, settings: GraphoneSettings | None = None, limit: int | None = None) -> G2PReport:
    """Learn from all but the held-out words and measure on those (the first ``limit`` in CMUdict's order, or all)."""
    held_out = {word: v for word, v in lexicon.items() if is_held_out(word, HELD_OUT)}
    model = learn({word: v for word, v in lexicon.items() if word not in held_out}, settings)
    return evaluate(Pronouncer(model), dict(list(held_out.items())[:limit]))


class Labeller:
    """Phonemes of transcripts, for training labels.

    CMUdict's first pronunciation where the word is there; possessives of such words by rule; else the learned model.
    Compounds get no rule: on held-out words that are two others (four letters or more each), joining the two
    was wrong for 342 of 704, the model for 145.

    ``model`` is a model file, or None for one learned from all of CMUdict on first need and kept in the user's cache
    folder (``$XDG_CACHE_HOME/edge-stt``). ``lexicon`` stands in for CMUdict, with ``possessives`` as above or not.
    """

    def __init__(
        self, model: Path | Pronouncer | None = None, lexicon: Lexicon | None = None, possessives: bool = True
    ) -> None:
        self.lexicon = read_cmudict() if lexicon is None else lexicon
        self.possessives = possessives
        self._pronouncer = Pronouncer.load(model) if isinstance(model, Path) else model
        self._cache: dict[str, Phonemes] = {}
        self.unknown: Counter[str] = Counter()  # words left to the learned model, and how often

    @classmethod
    def of(cls, language: Language) -> Labeller:
        """The labeller of a language with a dictionary; raises `DataError` when that cannot be read."""
        return cls(None, dictionary_of(language), language.possessives)

    @property
    def pronouncer(self) -> Pronouncer:
        """The learned model, made on first need."""
        if self._pronouncer is None:
            self._pronouncer = Pronouncer.load(_cached_model(self.lexicon))
        return self._pronouncer

    def pronounce_word(self, word: str) -> Phonemes:
        """Phonemes of one normalised word; raises `DataError` when it has characters outside a–z and apostrophe."""
        if word not in self._cache:
            phonemes = self._by_rule(word)
            if phonemes is None:
                phonemes = self.pronouncer.pronounce(word)[0].phonemes
                self.unknown[word] = 0
            self._cache[word] = phonemes
        if word in self.unknown:
            self.unknown[word] += 1
        return self._cache[word]

    def pronounce_text(self, text: str) -> list[Phonemes]:
        """One tuple of phonemes for each word of a normalised text."""
        return [self.pronounce_word(word) for word in text.split()]

    def _by_rule(self, word: str) -> Phonemes | None:
        for form in (word, word.strip("'")):
            if form in self.lexicon:
                return self.lexicon[form][0]
        if self.possessives and word.endswith("'s") and (base := self._by_rule(word[:-2])):
            return base + possessive_ending(base[-1])
        return None


def _cached_model(lexicon: Lexicon) -> Path:
    """The model of ``lexicon`` in the cache folder, learned now when it is not there yet."""
    settings = GraphoneSettings()
    digest = hashlib.sha256(repr((settings, sorted(lexicon.items()))).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-stt"
    path = folder / f"pronunciation-{digest}.bin"
    if not path.is_file():
        print("learning pronunciations from the dictionary, once (about a minute) …", file=sys.stderr)  # noqa: T201
        write_atomically(path, learn(lexicon, settings).to_bytes())
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete or not there; raises `DataError` when the place is not writable."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror}") from error


app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="Model file to write.")],
    report: Annotated[
        bool, typer.Option(help="First measure on held-out words, with a model learned without them.")
    ] = False,
) -> None:
    """Learn pronunciations from CMUdict and write the model."""
    try:
        lexicon = read_cmudict()
        if report:
            result = measure(lexicon)
            typer.echo(
                f"held-out words {result.words}: phoneme error rate {result.phoneme_error_rate:.2%}, "
                f"word error rate {result.word_error_rate:.2%}, {result.milliseconds:.1f} ms a word"
            )
        start = time.perf_counter()
        data = learn(lexicon).to_bytes()
        write_atomically(out, data)
        typer.echo(f"{out}: {len(data)} bytes, {len(lexicon)} words, {time.perf_counter() - start:.0f} s", err=True)
    except EdgeSttError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
