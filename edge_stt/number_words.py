"""English number words for ranges in grammars: how a number is said, and which number was said."""

from __future__ import annotations

from collections.abc import Sequence

LARGEST = 999_999

_DIGITS = "zero one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_SMALL = [*_DIGITS.split(), *_TEENS.split()]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
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
