"""Phrases that can be said: a file with one phrase a line, read into an automaton over words.

    # Lines of this kind are comments.
    turn the (light|lights) [in the <room>] {state: on|off}
    set <room> [to] <level> percent
    room = kitchen | living room | bedroom
    level = 0..100/5

``(a|b)`` is one of several, ``[a]`` may be left out, ``<rule>`` stands for what the line ``rule = …`` defines, and
``{name: …}`` names what was said there, as ``<rule>`` does under its own name: these are the slots. ``0..100`` are
numbers in words, ``0..100/5`` every fifth. ``{to: <room>}`` gives a slot another name. A line ending in ``|`` goes on.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from .errors import DecodingError
from .number_words import LARGEST, parse, spell, ways_to_say
from .text import english
from .word_graph import MAX_WORDS, WordGraph

MAX_NUMBERS = 10_000  # in one range
MAX_DEPTH = 50  # of brackets and rules

_TOKEN = re.compile(r"(?P<space>\s+|#.*)|(?P<mark>[()\[\]{}|<>=:])|(?P<word>[^\s()\[\]{}|<>=:#]+)")
_NAME = re.compile(r"[^\W\d][\w-]*")
_RANGE = re.compile(r"(\d+)\.\.(\d+)(?:/(\d+))?")
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
_EDGES = ".,;!?\"'“”‘…"

SlotValue = str | int


@dataclass(frozen=True)
class _Token:
    """A word or a mark; the end of a line is an empty one. ``column`` counts from 1."""

    text: str
    line: int
    column: int
    is_mark: bool = True


@dataclass(frozen=True)
class _Part:
    """A piece of a phrase: its automaton, the slots in it, and whether numbers stand in it outside of them."""

    state: int
    slots: frozenset[str] = frozenset()
    numbers: bool = False


@dataclass(frozen=True)
class Grammar:
    """Phrases as an automaton that begins in ``root`` of ``graph``. Read one with `from_file` or `from_text`.

    ``places``: line and column where each word stands first; ``numeric``: slots whose values are numbers; ``name`` is
    the file's, for messages.
    """

    name: str
    graph: WordGraph
    root: int
    places: dict[str, tuple[int, int]] = field(repr=False)
    numeric: frozenset[str]

    @classmethod
    def from_file(cls, path: Path) -> Grammar:
        """Read a file; raises `DecodingError` with file, line and column for what cannot be read as phrases."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise DecodingError(f"cannot read phrases from {path}: {reason}") from error
        return cls.from_text(text, str(path))

    @classmethod
    def from_text(cls, text: str, name: str = "phrases") -> Grammar:
        """Read the text of such a file; raises `DecodingError` as `from_file` does."""
        return _Reader(text, name).grammar()

    @property
    def phrases(self) -> int:
        """How many different phrases there are."""
        return self.graph.count(self.root)

    def accepts(self, text: str) -> bool:
        """Whether words (normalised, with spaces between) are one of the phrases."""
        return self.graph.accepts(self.root, text.split())

    def without(self, text: str) -> Grammar | None:
        """The same without one phrase; None when it was the only one."""
        root = self.graph.without(self.root, text.split())
        return replace(self, root=root) if root is not None else None

    def value(self, slot: str, words: Sequence[str]) -> SlotValue:
        """What stands in a slot: the number for a slot of numbers, else the words."""
        number = parse(words) if slot in self.numeric else None
        return " ".join(words) if number is None else number


class _Reader:
    """A parser by recursive descent, straight into automata."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.graph = WordGraph()
        self.places: dict[str, tuple[int, int]] = {}
        self.numeric: set[str] = set()
        self.rules: dict[str, list[_Token]] = {}
        self.known: dict[str, _Part] = {}
        self.open: list[str] = []  # rules being read
        self.depth = 0
        self.phrases: list[list[_Token]] = []
        for line in self._lines(text):
            if self._defines(line):
                self.rules[line[0].text] = line[2:]
            else:
                self.phrases.append(line)
        self.tokens: list[_Token] = []
        self.at = 0

    def grammar(self) -> Grammar:
        """All phrases together."""
        for name in self.rules:
            self._rule(name)  # for what is wrong in it, used or not
        if not self.phrases:
            raise DecodingError(f"{self.name} has no phrases; write one a line, as: turn (on|off) the light")
        states = [self._line(line) for line in self.phrases]
        root = self.graph.union(state.state for state in states)
        return Grammar(self.name, self.graph, root, self.places, frozenset(self.numeric))

    def _lines(self, text: str) -> Iterator[list[_Token]]:
        """Tokens line by line, each list ending with an empty one."""
        tokens: list[_Token] = []
        number, line = 0, ""
        for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
            for match in _TOKEN.finditer(line):
                if match.lastgroup != "space":
                    tokens.append(_Token(match[0], number, match.start() + 1, match.lastgroup == "mark"))
            if tokens and not (tokens[-1].is_mark and tokens[-1].text == "|"):
                yield [*tokens, _Token("", number, len(line.rstrip()) + 1)]
                tokens = []
        if tokens:
            yield [*tokens, _Token("", number, len(line.rstrip()) + 1)]

    def _defines(self, line: list[_Token]) -> bool:
        """Whether a line defines a rule; it may be written with or without angle brackets."""
        if line[0].text == "<" and len(line) > 3 and line[2].text == ">" and line[3].text == "=":
            del line[2], line[0]
        if not line[1].is_mark or line[1].text != "=":
            return False
        name = self._name(line[0])
        if name in self.rules:
            self._fail(line[0], f"the rule {name!r} is defined a second time")
        return True

    def _fail(self, token: _Token, reason: str) -> NoReturn:
        raise DecodingError(f"{self.name}:{token.line}:{token.column}: {reason}")

    # One line

    def _line(self, tokens: list[_Token]) -> _Part:
        """The automaton of a line or of a rule's right side."""
        outer = self.tokens, self.at
        self.tokens, self.at = tokens, 0
        try:
            part = self._alternatives()
            if self._next.text:
                self._fail(self._next, self._unexpected(self._next))
            if self.graph.is_final(part.state):
                self._fail(tokens[0], "this can be nothing at all: leave a word outside of the square brackets")
        except DecodingError as error:
            if str(error).startswith(f"{self.name}:"):
                raise
            self._fail(tokens[0], str(error))  # too large
        self.tokens, self.at = outer
        return part

    @property
    def _next(self) -> _Token:
        return self.tokens[self.at]

    def _take(self) -> _Token:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def _is_mark(self, *marks: str) -> bool:
        return self._next.is_mark and self._next.text in marks

    def _unexpected(self, token: _Token) -> str:
        if not token.text:
            return "the line ends where a word is missing"
        if token.text == "=":
            return "'=' belongs after the name of a rule, at the beginning of a line"
        if token.text == ":":
            return "':' belongs after the name of a slot, as in {name: words}"
        return (
            f"{token.text!r} closes nothing" if token.text in _CLOSING.values() else f"{token.text!r} is not expected"
        )

    def _alternatives(self) -> _Part:
        parts = [self._sequence()]
        while self._is_mark("|"):
            self._take()
            parts.append(self._sequence())
        if len(parts) == 1:
            return parts[0]
        state = self.graph.union(part.state for part in parts)
        return _Part(state, frozenset().union(*(p.slots for p in parts)), any(p.numbers for p in parts))

    def _sequence(self) -> _Part:
        first = self._next
        parts: list[_Part] = []
        slots: frozenset[str] = frozenset()
        while not (self._is_mark("|", ")", "]", "}", ">", "=", ":") or not self._next.text):
            token = self._next
            part = self._item()
            if twice := sorted(slots & part.slots):
                name = twice[0]
                self._fail(token, f"the slot {name!r} comes twice in one phrase; give one a name: {{other: <{name}>}}")
            slots |= part.slots
            parts.append(part)
        if not parts:
            self._fail(
                first, "a word is missing here" if first.text in ("|", ")", "]", "}") else self._unexpected(first)
            )
        if len(parts) > MAX_WORDS:
            self._fail(first, f"a phrase has more than {MAX_WORDS} words")
        state = self.graph.EMPTY
        for part in reversed(parts):
            state = self.graph.join(part.state, state)
        return _Part(state, slots, any(p.numbers for p in parts))

    def _item(self) -> _Part:
        token = self._take()
        if not token.is_mark:
            return self._word(token)
        if token.text == "<":
            name = self._reference(token)
            return self._slot(name, self._rule(name, token))
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail(token, f"brackets stand more than {MAX_DEPTH} deep")
        part = self._braces(token) if token.text == "{" else self._alternatives()
        self._close(token)
        self.depth -= 1
        if token.text == "[":
            return _Part(self.graph.optional(part.state), part.slots, part.numbers)
        return part

    def _close(self, opened: _Token) -> None:
        """Take what closes a bracket."""
        if not self._is_mark(_CLOSING[opened.text]):
            if not self._next.text:
                self._fail(opened, f"{opened.text!r} is never closed: {_CLOSING[opened.text]!r} is missing")
            self._fail(self._next, self._unexpected(self._next))
        self._take()

    def _name(self, token: _Token) -> str:
        if token.is_mark or not _NAME.fullmatch(token.text):
            what = repr(token.text) if token.text else "the end of the line"
            self._fail(token, f"a name is wanted here, letters, digits and _, not {what}")
        return token.text

    def _reference(self, opened: _Token) -> str:
        name = self._name(self._take())
        self._close(opened)
        return name

    def _braces(self, opened: _Token) -> _Part:
        """A named slot; a lone rule in it takes this name in place of its own."""
        name = self._name(self._take())
        if not self._is_mark(":"):
            self._fail(self._next, "':' is wanted after the name of a slot, as in {name: words}")
        self._take()
        if self._is_mark("<") and [t.text for t in self.tokens[self.at + 2 : self.at + 4]] == [">", "}"]:
            token = self._take()
            return self._slot(name, self._rule(self._reference(token), token))
        part = self._alternatives()
        if name in part.slots:
            self._fail(opened, f"the slot {name!r} stands within itself")
        return self._slot(name, part)

    def _slot(self, name: str, part: _Part) -> _Part:
        if part.numbers:
            self.numeric.add(name)
        return _Part(self.graph.in_slot(part.state, name), part.slots | {name})

    def _rule(self, name: str, token: _Token | None = None) -> _Part:
        """What a rule stands for, read when it is first asked for."""
        if name in self.known:
            return self.known[name]
        if name not in self.rules:
            assert token is not None
            self._fail(token, f"no line defines {name!r}; write: {name} = word | other word")
        if name in self.open:
            assert token is not None
            self._fail(token, f"the rule {name!r} stands for itself: {' → '.join([*self.open, name])}")
        self.open.append(name)
        part = self.known[name] = self._line(self.rules[name])
        if name in part.slots:
            self._fail(self.rules[name][0], f"the slot {name!r} stands within itself")
        self.open.pop()
        return part

    # Words

    def _word(self, token: _Token) -> _Part:
        if match := _RANGE.fullmatch(token.text):
            return self._range(token, int(match[1]), int(match[2]), int(match[3] or 1))
        words = self._written(token)
        for word in words:
            self.places.setdefault(word, (token.line, token.column))
        return _Part(self.graph.words(words))

    def _range(self, token: _Token, first: int, last: int, step: int) -> _Part:
        if not first <= last <= LARGEST or not step:
            self._fail(token, f"{token.text} is no range: write the smaller number first, up to {LARGEST}, as 0..100/5")
        numbers = range(first, last + 1, step)
        if len(numbers) > MAX_NUMBERS:
            self._fail(token, f"{token.text} are {len(numbers)} numbers; at most {MAX_NUMBERS} can be told apart")
        ways = [way for number in numbers for way in ways_to_say(number)]
        for way in ways:
            for word in way:
                self.places.setdefault(word, (token.line, token.column))
        return _Part(self.graph.union(map(self.graph.words, ways)), numbers=True)

    def _written(self, token: _Token) -> list[str]:
        """A word as it is written to words as they are said: lower case, no punctuation, numbers and signs in words."""
        text = unicodedata.normalize("NFC", token.text).lower().replace("’", "'").strip(_EDGES)
        for sign, said in english().signs.items():
            text = text.replace(sign, f" {said} ")
        words: list[str] = []
        for word in re.split(r"[\s/-]+", text):
            if word.isdecimal() and word.isascii():
                if int(word) > LARGEST:
                    self._fail(token, f"the number {word} is too large to be spelled; write it in words")
                words += spell(int(word))
            elif word:
                words.append(word)
        if not words:
            self._fail(token, f"{token.text!r} is not a word")
        return words
