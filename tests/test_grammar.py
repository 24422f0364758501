"""Phrase files: what is read out of them, and what is said of those that cannot be read."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest

from edge_stt.errors import DecodingError
from edge_stt.grammar import Grammar
from edge_stt.number_words import LARGEST, parse, spell, ways_to_say
from edge_stt.word_graph import MAX_WORDS, WordGraph


def phrases_of(grammar: Grammar) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """All phrases, each with its slots and what stands in them."""
    found = set()

    def walk(state: int, words: list[str], slots: dict[str, list[str]]) -> None:
        if grammar.graph.is_final(state):
            found.add((" ".join(words), tuple((name, " ".join(said)) for name, said in slots.items())))
        for (word, names), target in grammar.graph.arcs(state):
            more = {name: [*slots.get(name, []), word] for name in names}
            walk(target, [*words, word], {**slots, **more})

    walk(grammar.root, [], {})
    return found


def texts(source: str) -> set[str]:
    return {text for text, _ in phrases_of(Grammar.from_text(source))}


def test_alternatives_and_optional_words() -> None:
    assert texts("turn (on|off) [the] light") == {
        f"turn {state}{the} light" for state, the in product(("on", "off"), ("", " the"))
    }
    assert texts("stop | halt\nplease [do] wait") == {"stop", "halt", "please wait", "please do wait"}
    assert texts("([a] b | c [d [e]]) f") == {"b f", "a b f", "c f", "c d f", "c d e f"}


def test_rules_are_slots() -> None:
    grammar = Grammar.from_text(
        "# comment\n<light> off  # another\n\nlight = [the] <room> lamp\n<room> = living room |\n   kitchen\n"
    )
    assert phrases_of(grammar) == {
        (f"{the}{room} lamp off", (("light", f"{the}{room} lamp"), ("room", room)))
        for the, room in product(("", "the "), ("living room", "kitchen"))
    }


def test_a_slot_gives_a_lone_rule_its_name() -> None:
    grammar = Grammar.from_text("from {here: <room>} to {there: <room>} {how: right now}\nroom = hall | attic")
    assert ("from hall to attic right now", (("here", "hall"), ("there", "attic"), ("how", "right now"))) in phrases_of(
        grammar
    )
    assert grammar.phrases == 4


def test_numbers() -> None:
    grammar = Grammar.from_text("set <level> percent\nlevel = 0..100/5 | maximum")
    assert grammar.accepts("set thirty five percent")
    assert grammar.accepts("set a hundred percent")
    assert not grammar.accepts("set thirty six percent")
    assert grammar.value("level", ["thirty", "five"]) == 35
    assert grammar.value("level", ["maximum"]) == "maximum"
    assert texts("5 lamps at 20% or ½") == {"five lamps at twenty percent or ½"}


@pytest.mark.parametrize("number", [0, 7, 10, 19, 20, 21, 99, 100, 101, 115, 342, 1000, 1001, 20_300, LARGEST])
def test_number_words_there_and_back(number: int) -> None:
    for way in ways_to_say(number):
        assert parse(way) == number


def test_number_words() -> None:
    assert " ".join(spell(1215)) == "one thousand two hundred fifteen"
    assert " ".join(spell(105, and_word=True)) == "one hundred and five"
    assert ["a", "hundred", "and", "five"] in ways_to_say(105)
    assert parse(["five", "hundred", "hundred"]) is None
    assert parse(["fifty", "percent"]) is None
    assert parse([]) is None
    for number in random.Random(1).sample(range(LARGEST + 1), 500):
        for way in ways_to_say(number):
            assert parse(way) == number


def test_words_as_people_write_them() -> None:
    assert texts("“What’s the TIME?”\r\nturn-off now!") == {"what's the time", "turn off now"}
    assert Grammar.from_text("\ufeffgo").accepts("go") is False  # only files have a mark of their byte order


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "phrases.txt"
    path.write_bytes("\ufeffgo home\r\n".encode())
    assert Grammar.from_file(path).accepts("go home")
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DecodingError, match=r"phrases\.txt: it is not UTF-8"):
        Grammar.from_file(path)
    with pytest.raises(DecodingError, match="No such file"):
        Grammar.from_file(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f has no phrases"),
        ("# nothing\n\n", "f has no phrases"),
        ("room = kitchen", "f has no phrases"),
        ("go\nturn (on|off", "f:2:6: '(' is never closed: ')' is missing"),
        ("turn [on", "f:1:6: '[' is never closed"),
        ("turn {state: on", "f:1:6: '{' is never closed"),
        ("turn <state", "f:1:6: '<' is never closed"),
        ("turn on)", "f:1:8: ')' closes nothing"),
        ("turn (on]", "f:1:9: ']' closes nothing"),
        ("turn (on|) it", "f:1:10: a word is missing here"),
        ("turn () it", "f:1:7: a word is missing here"),
        ("a |", "f:1:4: the line ends where a word is missing"),
        ("ok\n  [please]", "f:2:3: this can be nothing at all"),
        ("x\nr = [a]", "f:2:5: this can be nothing at all"),
        ("go <where>", "f:1:4: no line defines 'where'; write: where = word | other word"),
        ("<a>\na = <b>\nb = x <a>", "f:3:7: the rule 'a' stands for itself: a → b → a"),
        ("x\na = b\na = c", "f:3:1: the rule 'a' is defined a second time"),
        ("<r> to <r>\nr = a", "f:1:8: the slot 'r' comes twice in one phrase"),
        ("{r: {r: a} b}", "f:1:1: the slot 'r' stands within itself"),
        ("{state on}", "f:1:8: ':' is wanted after the name of a slot"),
        ("{7: on}", "f:1:2: a name is wanted here"),
        ("turn on: now", "f:1:8: ':' belongs after the name of a slot"),
        ("turn it = on", "f:1:9: '=' belongs after the name of a rule"),
        ("go > on", "f:1:4: '>' closes nothing"),
        ("go !!", "f:1:4: '!!' is not a word"),
        ("at 9..3", "f:1:4: 9..3 is no range"),
        ("at 0..9/0", "f:1:4: 0..9/0 is no range"),
        ("at 0..999999", "f:1:4: 0..999999 are 1000000 numbers; at most 10000"),
        ("at 12345678", "f:1:4: the number 12345678 is too large"),
        ("go\n" + "very " * (MAX_WORDS + 1), f"f:2:1: a phrase has more than {MAX_WORDS} words"),
        ("x " + "(" * 60 + "a" + ")" * 60, "f:1:53: brackets stand more than 50 deep"),
        ("<a> <a2>\na = <b> <c>\na2 = " + "w " * 190 + "\nb = " + "w " * 9 + "\nc = w w", "f:1:1: a phrase has more"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(DecodingError) as caught:
        Grammar.from_text(text, "f")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_no_text_breaks_the_reader() -> None:
    rng = random.Random(5)
    pieces = ["a", "b ", "(", ")", "[", "]", "{", "}", "<", ">", "=", ":", "|", " ", "\n", "r", "0..3", "#", "é", "s:"]
    read = 0
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 16)))
        try:
            read += Grammar.from_text(text).phrases > 0
        except DecodingError as error:
            assert str(error).startswith("phrases")
    assert read > 100


def test_automata_are_minimal_and_share() -> None:
    """Random finite languages: just their words are accepted, with as few states as Myhill and Nerode allow."""
    rng = random.Random(2)
    for _ in range(30):
        words = {tuple(rng.choices("ab", k=rng.randrange(1, 5))) for _ in range(rng.randrange(1, 12))}
        graph = WordGraph()
        root = graph.union(graph.words(word) for word in words)
        everything = [word for length in range(6) for word in product("ab", repeat=length)]
        assert {word for word in everything if graph.accepts(root, word)} == words
        residuals = {
            frozenset(word[n:] for word in words if word[:n] == prefix)
            for n in range(6)
            for prefix in product("ab", repeat=n)
        } - {frozenset()}
        reached, queue = {root}, [root]
        for state in queue:
            new = {target for _, target in graph.arcs(state)} - reached
            reached |= new
            queue += new
        assert len(reached) == len(residuals)
        assert graph.count(root) == len(words)
        gone = next(iter(words))
        rest = graph.without(root, gone)
        left = {word for word in everything if rest is not None and graph.accepts(rest, word)}
        assert left == words - {gone}


def test_many_phrases_are_few_states() -> None:
    grammar = Grammar.from_text("set [the] <room> to <level> percent\nroom = hall | attic | den\nlevel = 0..9999")
    assert grammar.phrases > 60_000
    assert len(phrases_of(Grammar.from_text("<n>\nn = 0..120"))) > 121
    assert grammar.accepts("set the attic to nine thousand nine hundred and ninety nine percent")
