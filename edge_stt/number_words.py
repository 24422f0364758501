"""English number words: how a number is said, as a count and as a rank, and which number of a grammar was said."""

from __future__ import annotations

from collections.abc import Sequence

LARGEST = 999_999  # in grammars

_DIGITS = "zero one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_SMALL = [*_DIGITS.split(), *_TEENS.split()]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = ("", "thousand", "million", "billion", "trillion")
_RANKS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
_RANKS |= {"twelve": "twelfth"} | {word: f"{word[:-1]}ieth" for word in _TENS}
MAX_DIGITS = 3 * len(_SCALES)  # of a number that is said as one
_VALUES = {word: i for i, word in enumerate(_SMALL)} | {word: 10 * i for i, word in enumerate(_TENS, 2)} | {"a": 1}


def spell(number: int, and_word: bool = False) -> list[str]:
    """Words of 0 … 999,999: ``105`` is *one hundred five*, with ``and_word`` *one hundred and five*."""
    if not 0 <= number <= LARGEST:
        raise ValueError(f"{number} is not between 0 and {LARGEST}")
    thousands, below = divmod(number, 1000)
    words = [*spell(thousands, and_word), "thousand"] if thousands else []
    hundreds, rest = divmod(below, 100)
    if hundreds:
        words += [_SMALL[hundreds], "hundred"]
    if and_word and rest and words:
        words.append("and")
    if rest >= 20:
        words.append(_TENS[rest // 10 - 2])
        rest %= 10
    if rest or not words:
        words.append(_SMALL[rest])
    return words


def cardinal(digits: str) -> str:
    """Digits in words: ``"105"`` is *one hundred five*. More than `MAX_DIGITS` are no quantity: one after another."""
    if len(digits) > MAX_DIGITS:
        return " ".join(map(cardinal, digits))
    number = int(digits)
    words = [] if number else ["zero"]
    for power in reversed(range(len(_SCALES))):
        if part := number // 1000**power % 1000:
            words += [*spell(part), _SCALES[power]]
    return " ".join(filter(None, words))


def ordinal(digits: str) -> str:
    """Digits as a rank: ``"105"`` is *one hundred fifth*."""
    before, space, last = cardinal(digits).rpartition(" ")
    return before + space + _RANKS.get(last, f"{last}th")


def ways_to_say(number: int) -> list[list[str]]:
    """All ways that are understood: *one hundred five*, *one hundred and five*, *a hundred and five*."""
    ways = [spell(number), spell(number, and_word=True)]
    ways += [["a", *way[1:]] for way in ways if way[0] == "one" and len(way) > 1]
    return [list(way) for way in dict.fromkeys(map(tuple, ways))]


def parse(words: Sequence[str]) -> int | None:
    """The number that words say; None when they are not one."""
    total = part = 0
    for word in words:
        if word == "thousand":
            total, part = 1000 * part, 0
        elif word == "hundred":
            part *= 100
        elif word in _VALUES:
            part += _VALUES[word]
        elif word != "and":
            return None
    number = total + part
    return number if number <= LARGEST and list(words) in ways_to_say(number) else None
