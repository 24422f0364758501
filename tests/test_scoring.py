"""Error counts against independent ones, and what the bootstrap must do on sets whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_stt.corpora import Clip, read_corpus, read_sounds
from edge_stt.errors import DataError
from edge_stt.scoring import (
    ClipScore,
    Counts,
    _count_alone,
    align,
    compare,
    compare_times,
    count_edits,
    interval,
    percent,
    score_clip,
    total,
)

pytest.importorskip("jiwer", reason="needs the bench extra")

WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=8)


def levenshtein(left: list[str], right: list[str]) -> int:
    """The textbook recurrence (V. Levenshtein 1966; R. Wagner and M. Fischer 1974)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@given(WORDS, WORDS)
def test_edits_are_the_fewest(reference: list[str], hypothesis: list[str]) -> None:
    counts = count_edits(reference, hypothesis)
    assert counts.errors == levenshtein(reference, hypothesis)
    assert counts.units == len(reference)
    assert len(hypothesis) == len(reference) - counts.deletions + counts.insertions


@given(WORDS, WORDS)
def test_an_alignment_holds_both_texts_and_its_edits(reference: list[str], hypothesis: list[str]) -> None:
    pairs = align(reference, hypothesis)
    assert [a for a, _ in pairs if a is not None] == reference
    assert [b for _, b in pairs if b is not None] == hypothesis
    assert sum(a != b for a, b in pairs) == levenshtein(reference, hypothesis)
    assert (None, None) not in pairs


def test_words_and_characters_of_a_clip() -> None:
    score = score_clip("x", "s", "the cat sat", "a cat sat down")
    assert score.words == Counts(3, 1, 0, 1)
    assert score.characters.units == len("the cat sat")
    assert score.characters.errors == levenshtein(list("the cat sat"), list("a cat sat down"))
    assert score_clip("x", "s", "", "two words").words == Counts(0, 0, 0, 2)
    assert score_clip("x", "s", "two words", "").words == Counts(2, 0, 2, 0)
    assert percent(total([Counts(10, 1, 0, 0), Counts(30, 1, 1, 1)])) == 10.0
    assert percent(Counts(0, 0, 0, 2)) == 200.0


def clips(rates: list[float], per_speaker: int, rng: np.random.Generator) -> list[ClipScore]:
    """Clips of ten words, each word wrong with its speaker's probability."""
    return [
        ClipScore(f"{s}-{i}", str(s), "", "", Counts(10, int(rng.binomial(10, rate))), Counts(40, 0))
        for s, rate in enumerate(rates)
        for i in range(per_speaker)
    ]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """120 sets of 30 speakers: the 95 % interval over speakers holds the population's rate 88 to 99 times in 100.

    (The bootstrap's percentile interval is known to be a little narrow for few groups.)
    """
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(120):
        rates = rng.beta(4, 16, size=30)  # speakers differ; the population's mean is 0.2
        found = interval(clips(list(rates), 5, rng))
        assert found.low is not None
        assert found.high is not None
        assert found.drawn == "speakers"
        held += found.low <= 20.0 <= found.high
    assert 0.88 <= held / 120 <= 0.99


def test_speakers_that_differ_make_the_interval_wider_than_clips_would() -> None:
    rng = np.random.default_rng(1)
    by_speaker = clips([0.02] * 5 + [0.5] * 5, 20, rng)
    one_each = [ClipScore(c.id, c.id, "", "", c.words, c.characters) for c in by_speaker]
    wide, narrow = interval(by_speaker), interval(one_each)
    assert wide.rate == narrow.rate
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)  # type: ignore[operator]


def test_few_speakers_are_said_so() -> None:
    rng = np.random.default_rng(2)
    found = interval(clips([0.2, 0.3], 10, rng))
    assert found.drawn == "clips"
    assert found.low < found.rate < found.high  # type: ignore[operator]
    assert interval(clips([0.2], 1, rng)).low is None


def test_clips_are_not_called_speakers() -> None:
    """Clips without a speaker, as a manifest's reader names them and `load_set` numbers them."""
    rng = np.random.default_rng(8)
    named = clips([0.1, 0.2, 0.3, 0.4, 0.5], 4, rng)
    for speaker in ("corpus/unknown", "corpus/unknown-{}", ""):
        unnamed = [replace(c, speaker=speaker.format(i)) for i, c in enumerate(named)]
        assert interval(unnamed).drawn == "clips"
        assert interval(unnamed) == interval([replace(c, speaker="one") for c in named])
        assert interval(named + unnamed).drawn == "speakers and clips"
    assert interval(named).drawn == "speakers"


def test_too_few_clips_are_never_significant() -> None:
    """All draws of one clip are the same, so its interval never holds zero."""
    rng = np.random.default_rng(9)
    for count in (1, 4, 5):
        old = [replace(c, words=Counts(10, 0)) for c in clips([0.0] * count, 1, rng)]
        new = [replace(c, words=Counts(10, 3)) for c in old]
        change = compare(old, new)
        assert change.low > 0
        assert (change.too_few, change.significant) == (count < 5, count == 5)


def test_the_bootstrap_is_the_same_each_time() -> None:
    scores = clips([0.1] * 10, 3, np.random.default_rng(3))
    assert interval(scores) == interval(scores)


def test_a_difference_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    rng = np.random.default_rng(4)
    old = clips([0.2] * 20, 10, rng)
    better = [ClipScore(c.id, c.speaker, "", "", Counts(10, c.words.errors // 2), c.characters) for c in old]
    change = compare(old, better)
    assert change.significant
    assert change.points < 0
    assert change.low <= change.points <= change.high < 0
    assert change.probability_worse == 0.0
    back = compare(better, old)
    assert (back.points, back.low, back.high) == (
        -change.points,
        pytest.approx(-change.high),
        pytest.approx(-change.low),
    )
    same = compare(old, old)
    assert (same.points, same.low, same.high, same.probability_worse) == (0.0, 0.0, 0.0, 0.5)
    assert not same.significant


def test_chance_is_seldom_called_significant() -> None:
    """Two runs of equal truth on 20 speakers: at most one comparison in six is wrong at the 95 % level."""
    rng = np.random.default_rng(5)
    wrong = sum(compare(clips([0.2] * 20, 5, rng), clips([0.2] * 20, 5, rng)).significant for _ in range(60))
    assert wrong <= 10


def test_times_are_compared_as_ratios() -> None:
    rng = np.random.default_rng(6)
    old = rng.uniform(0.1, 2.0, 50)
    ratio, low, high = compare_times(list(old), list(old * 2))
    assert ratio == pytest.approx(2.0)
    assert low == pytest.approx(2.0)
    assert high == pytest.approx(2.0)


# --- corpora --------------------------------------------------------------------------------------------------------


def read(path: Path) -> tuple[list[Clip], list[str]]:
    problems: list[str] = []
    return list(read_corpus(path, problems.append)), problems


def test_a_manifest_and_what_is_wrong_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    good = {"audio_filepath": "a.wav", "text": "one\u2028line", "speaker": "x", "duration": 1.5}
    bad = [
        "[1]", "5", "null", "{", '{"text": "no path"}', '{"audio_filepath": "gone.wav", "text": ""}',
        '{"audio_filepath": 3, "text": ""}', '{"audio_filepath": "a.wav", "text": "", "duration": NaN}',
        '{"audio_filepath": "a.wav", "text": "", "duration": -1}',
        '{"audio_filepath": "a.wav", "text": "", "duration": []}', '{"audio_filepath": "a.wav", "text": null}',
        '{"audio_filepath": "a.wav", "text": "", "offset": 1.5}',
        json.dumps({"audio_filepath": "x" * 5000, "text": ""}), "[" * 100_000,
    ]  # fmt: skip
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join([json.dumps(good, ensure_ascii=False), "", *bad]) + "\n", encoding="utf-8")
    found, problems = read(manifest)
    assert [(c.text, c.duration, c.source) for c in found] == [("one\u2028line", 1.5, f"{manifest}:1")]
    assert [int(p.split(":")[1]) for p in problems] == list(range(3, 3 + len(bad)))
    assert all("\n" not in p for p in problems)
    manifest.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot read the manifest"):
        read(manifest)


def test_a_manifest_in_this_folder_names_its_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my-corpus"
    folder.mkdir()
    (folder / "a.wav").touch()
    (folder / "train.jsonl").write_text(json.dumps({"audio_filepath": "a.wav", "text": "one"}) + "\n")
    monkeypatch.chdir(folder)
    assert [(c.id, c.corpus, c.speaker) for c in read(Path("train.jsonl"))[0]] == [
        ("my-corpus/a", "my-corpus", "my-corpus/unknown")
    ]


def test_the_layout_of_ljspeech(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs" / "LJ001-0001.wav").touch()
    (tmp_path / "metadata.csv").write_text('LJ001-0001|In 1805, "x"|In eighteen five, "x"\r\nLJ9|gone\nnothing\n')
    found, problems = read(tmp_path)
    assert [(c.id, c.speaker, c.text) for c in found] == [
        ("ljspeech/LJ001-0001", "ljspeech/LJ", 'In eighteen five, "x"')
    ]
    assert [p.split(":")[1] for p in problems] == ["2", "3"]


def test_the_layout_of_librispeech(tmp_path: Path) -> None:
    folder = tmp_path / "dev-clean" / "84" / "121123"
    folder.mkdir(parents=True)
    (folder / "84-121123-0000.flac").touch()
    (folder / "84-121123.trans.txt").write_text("84-121123-0000 GO ON\n84-121123-0001 GONE\n")
    found, problems = read(tmp_path / "dev-clean")
    assert [(c.id, c.speaker, c.text) for c in found] == [("librispeech/84-121123-0000", "librispeech/84", "GO ON")]
    assert len(problems) == 1


def test_the_table_of_common_voice(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp3").touch()
    table = tmp_path / "test.tsv"
    table.write_text('client_id\tpath\tsentence\nabc\ta.mp3\tSay "it.\nabc\tgone.mp3\tx\nabc\n')
    found, problems = read(table)
    assert [(c.id, c.speaker, c.text) for c in found] == [("commonvoice/a", "commonvoice/abc", 'Say "it.')]
    assert len(problems) == 2
    table.write_text("client_id\tpath\tsentence\n\nabc\ta.mp3\nabc\nabc\ta.mp3\tx\n")
    found, problems = read(table)
    assert [(c.text, c.source) for c in found] == [("x", f"{table}:5")]
    assert problems == [
        f"{table}:3: has too few columns: no sentence",
        f"{table}:4: has too few columns: no path and no sentence",
    ]
    table.write_text("path\tsentence\tclient_id\na.mp3\tx\n")
    assert read(table) == ([], [f"{table}:2: has too few columns: no client_id"])
    table.write_text("a\tb\n1\t2\n")
    with pytest.raises(DataError, match="not a Common Voice table"):
        read(table)


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("wav_filename,wav_filesize,transcript", 'wavs/a.wav,1234,"Stop, now."'),  # DeepSpeech's and Coqui's
        ("\ufeffText;File;Speaker", "Stop, now.;wavs/a.wav;ann"),  # a spreadsheet's
        ("path\ttext\tspeaker", "wavs/a.wav\tStop, now.\tann"),
        ("file|sentence", "wavs/a.wav|Stop, now."),
    ],
)
def test_a_table(head: str, row: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "wavs").mkdir(parents=True)
    (folder / "wavs" / "a.wav").touch()
    table = folder / "train.csv"
    gone = row.replace("a.wav", "gone.wav")
    table.write_text("\r\n".join([head, row, "", gone, "wavs/a.wav"]), encoding="utf-8")
    found, problems = read(table)
    speaker = "mine/ann" if "ann" in row else "mine/unknown"
    assert [(c.id, c.corpus, c.speaker, c.text) for c in found] == [("mine/wavs/a", "mine", speaker, "Stop, now.")]
    assert [p.split(": ")[0] for p in problems] == [f"{table}:4", f"{table}:5"]
    assert "no such file" in problems[0]
    assert "1 columns" in problems[1]


def test_noises_need_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "n.jsonl").write_text('{"audio_filepath": "a.wav"}\n{"audio_filepath": "gone.wav"}\n')
    (tmp_path / "n.csv").write_text("path\na.wav\ngone.wav\n")
    for name in ("n.jsonl", "n.csv"):
        problems: list[str] = []
        assert read_sounds(tmp_path / name, problems.append) == [tmp_path / "a.wav"]
        assert [p.split(": ")[1] for p in problems] == ["no such file"]


def test_a_quote_that_is_not_closed_is_said(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.wav").touch()
    (tmp_path / "t.csv").write_text('path,text\na.wav,one\nb.wav,"two\nc.wav,"three"\nd.wav,four\n')
    found, problems = read(tmp_path / "t.csv")
    assert [c.text for c in found] == ["one", "four"]
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path}/t.csv:4: goes over several lines")


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no column for the audio"), ("wav_filename,size\n", "no column for the text"), ("a,b\nc,d\n", "first line")],
)
def test_a_table_whose_columns_are_not_known(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.csv")


def test_what_is_no_corpus_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a"):
        read(tmp_path)


def test_a_device_without_jiwer_counts_as_many_edits() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        reference, hypothesis = (
            [chr(97 + int(x)) for x in rng.integers(4, size=int(rng.integers(1, 12)))] for _ in "ab"
        )
        alone, jiwers = _count_alone(reference, hypothesis), count_edits(reference, hypothesis)
        assert alone.errors == jiwers.errors
        assert alone.units - alone.deletions + alone.insertions == len(hypothesis)
