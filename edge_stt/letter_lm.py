"""A language model of letters, for decoding without a lexicon: which letter is likely to follow the last few.

It is an n-gram model like that of words (`edge_stt.lm`) whose words are the units of a model, the separator written as
`SPACE`: `edge-stt lm build --letters` makes one. Decoding with it is what V. Likhomanenko et al. call lexicon-free
("Who needs words? Lexicon-free speech recognition", Interspeech 2019): any word can be written.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .errors import DecodingError
from .lm import SPECIAL_WORDS, LanguageModel, State
from .units import SEPARATOR, UnitSet

SPACE = "_"
ROWS = 20_000  # kept in memory, about 1 kB each


def spell(words: Iterable[str]) -> list[str]:
    """Words as the letters that such a model is made of: ``the cat`` → ``t h e _ c a t``."""
    return list(SPACE.join(words))


def is_of_letters(lm: LanguageModel) -> bool:
    """Whether that is a model of letters, not of words."""
    return SPACE in lm and all(len(word) == 1 or word in SPECIAL_WORDS for word in lm.vocabulary)


def load_words(path: Path) -> LanguageModel:
    """Load a language model of words; raises `DecodingError`, also where it is one of letters."""
    lm = LanguageModel.load(path)
    if is_of_letters(lm):
        raise DecodingError(f"{path} is a language model of letters: build one of words (`lm build` without --letters)")
    return lm


def load_letters(path: Path) -> LanguageModel:
    """Load a language model of letters; raises `DecodingError`, also where it is one of words."""
    lm = LanguageModel.load(path)
    if not is_of_letters(lm):
        raise DecodingError(f"{path} is no language model of letters: `edge-stt lm build --letters` makes one")
    return lm


class Row(dict[int, float]):
    """Scores of the units that were asked for: few of them come near in a search."""

    def __init__(self, model: LetterModel, state: State) -> None:
        super().__init__()
        self._model, self._state = model, state

    def __missing__(self, unit: int) -> float:
        found = self[unit] = self._model.score(self._state, unit)
        return found


class LetterModel:
    """Scores of units after others; ``weight`` × log-probability + ``bonus``, natural logs."""

    def __init__(self, lm: LanguageModel, units: UnitSet, weight: float, bonus: float) -> None:
        """Raises `DecodingError` for units that are no letters, and for a model of something else."""
        if units.kind != "characters":
            raise DecodingError(f"a model of letters is for characters; the model speaks {units.name!r}")
        letters = [SPACE if unit == SEPARATOR else symbol for unit, symbol in enumerate(units.symbols)]
        known = sum(all(letter in lm for letter in unit) for unit in letters[SEPARATOR:])
        if not is_of_letters(lm) or known < len(letters) // 2:
            raise DecodingError("that is no language model of letters: `edge-stt lm build --letters` makes one")
        self.lm, self.weight, self.bonus = lm, weight, bonus
        self.largest_bonus = max(0.0, bonus) * units.longest
        self._ids = [[lm.word_id(letter) for letter in unit] for unit in letters]  # of a piece of a word, several
        self._rows: dict[State, Row] = {}

    def start(self) -> State:
        """The state before the first letter."""
        return self.lm.start_state()

    def row(self, state: State) -> Row:
        """What units add to the score in this state: ``row[unit]``."""
        found = self._rows.get(state)
        if found is None:
            if len(self._rows) >= ROWS:
                self._rows.clear()
            found = self._rows[state] = Row(self, state)
        return found

    def score(self, state: State, unit: int) -> float:
        """What one unit adds to the score."""
        total = 0.0
        *first, last = self._ids[unit]
        for letter in first:
            score, state = self.lm.score(state, letter)
            total += score
        return self.weight * (total + self.lm.log_prob(state, last)) + self.bonus * len(self._ids[unit])

    def after(self, state: State, unit: int) -> State:
        """The state after one unit."""
        for letter in self._ids[unit]:
            state = self.lm.score(state, letter)[1]
        return state
