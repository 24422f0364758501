"""Each format read back; subtitles that keep to their conventions; files whole or not at all."""

from __future__ import annotations

import csv
import html
import itertools
import json
import os
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edge_stt
from edge_stt.errors import EdgeSttError
from edge_stt.files import write_atomically
from edge_stt.outputs import WRITERS, clock
from edge_stt.recogniser import Segment, Transcript, Word
from edge_stt.subtitles import CLINGING, Cue, SubtitleConfig, break_lines, make_cues

from .conftest import DEMO

CONFIG = SubtitleConfig()
NAME = "memos/a talk.wav"


def said(*utterances: tuple[float, str], rate: float = 3.0) -> Transcript:
    """A transcript of utterances ``(start, text)`` spoken at ``rate`` words a second."""
    segments = []
    for start, text in utterances:
        words = tuple(
            Word(word, round(start + i / rate, 3), round(start + (i + 0.9) / rate, 3), round(0.5 + i / 64, 4))
            for i, word in enumerate(text.split())
        )
        segments.append(Segment(words[0].start, words[-1].end, text, words))
    return Transcript.of(segments, segments[-1].end + 1.0)


TALK = said(
    (0.4, "the county court was the sheriff's who sat there"),
    (5.0, "surrounded by the bishop and the magnates of the county before whom all the freeholders had to come"),
    (3_700.25, "thank you"),
)
NOTHING = Transcript.of([], 2.0)


@pytest.fixture(scope="module")
def demo() -> Transcript:
    return edge_stt.load_model().transcribe(DEMO)


@pytest.fixture(params=["talk", "demo"])
def transcript(request: pytest.FixtureRequest, demo: Transcript) -> Transcript:
    return demo if request.param == "demo" else TALK


def written(kind: str, transcript: Transcript, name: str = NAME) -> str:
    return "".join(WRITERS[kind].pieces(transcript, name))


def seconds(clock: str) -> float:
    hours, minutes, rest = re.fullmatch(r"(\d{2,}):([0-5]\d):([0-5]\d[.,]\d{3})", clock).groups()  # type: ignore[union-attr]
    return int(hours) * 3600 + int(minutes) * 60 + float(rest.replace(",", "."))


def parse_srt(text: str) -> Iterator[Cue]:
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    for number, block in enumerate(blocks, 1):
        index, times, *lines = block.split("\n")
        assert int(index) == number
        start, end = times.split(" --> ")
        assert "," in start
        yield Cue(seconds(start), seconds(end), tuple(lines))


def parse_vtt(text: str) -> Iterator[Cue]:
    header, *blocks = text.removesuffix("\n").split("\n\n")
    assert header == "WEBVTT"
    for block in blocks:
        times, *lines = block.split("\n")
        start, end = times.split(" --> ")
        assert "." in start
        yield Cue(seconds(start), seconds(end), tuple(map(html.unescape, lines)))


# --- formats --------------------------------------------------------------------------------------------------------


def test_text_has_one_line_an_utterance(transcript: Transcript) -> None:
    assert written("txt", transcript).splitlines() == [segment.text for segment in transcript.segments]


def test_json_has_everything(transcript: Transcript) -> None:
    text = written("json", transcript)
    assert text.count("\n") == 1
    data = json.loads(text)
    assert data.pop("file") == NAME
    assert data == json.loads(json.dumps(transcript.to_dict()))


@pytest.mark.parametrize(("kind", "parse"), [("srt", parse_srt), ("vtt", parse_vtt)])
def test_subtitles_read_back(kind: str, parse: object, transcript: Transcript) -> None:
    cues = list(parse(written(kind, transcript)))  # type: ignore[operator]
    assert " ".join(line for cue in cues for line in cue.lines) == transcript.text
    wanted = make_cues(transcript.words)
    assert [cue.lines for cue in cues] == [cue.lines for cue in wanted]
    for cue, want in zip(cues, wanted, strict=True):
        assert (cue.start, cue.end) == pytest.approx((want.start, want.end), abs=0.00051)


def test_vtt_escapes_what_it_uses_itself() -> None:
    text = written("vtt", said((0.0, "r&b <i>")))
    assert "r&amp;b &lt;i&gt;" in text
    assert [cue.lines for cue in parse_vtt(text)] == [("r&b <i>",)]


def test_tsv_is_a_table_of_utterances(transcript: Transcript) -> None:
    rows = list(csv.DictReader(written("tsv", transcript).splitlines(), delimiter="\t"))
    assert [row["text"] for row in rows] == [segment.text for segment in transcript.segments]
    assert [int(row["start"]) / 1000 for row in rows] == [segment.start for segment in transcript.segments]
    assert [int(row["end"]) / 1000 for row in rows] == [segment.end for segment in transcript.segments]


def test_ctm_is_a_table_of_words(transcript: Transcript) -> None:
    rows = [line.split(" ") for line in written("ctm", transcript).splitlines()]
    assert {(row[0], row[1]) for row in rows} == {("a_talk", "1")}
    for row, word in zip(rows, transcript.words, strict=True):
        start, duration, text, confidence = row[2:]
        assert text == word.text
        assert float(start) == word.start
        assert float(duration) == pytest.approx(word.end - word.start, abs=0.0006)
        assert float(confidence) == word.confidence


def test_nothing_said_is_a_valid_file_of_each_kind() -> None:
    assert {kind: written(kind, NOTHING) for kind in WRITERS if kind != "json"} == {
        "txt": "\n",
        "srt": "",
        "vtt": "WEBVTT\n",
        "tsv": "start\tend\ttext\n",
        "ctm": "",
    }
    assert json.loads(written("json", NOTHING)) == {"file": NAME, "text": "", "duration": 2.0, "segments": []}


def test_clock() -> None:
    assert clock(0.0, ",") == "00:00:00,000"
    assert clock(59.9996, ".") == "00:01:00.000"  # not 00:00:60.000
    assert clock(3_599.9994, ",") == "00:59:59,999"
    assert clock(100 * 3600 + 1.5, ".") == "100:00:01.500"


# --- subtitles ------------------------------------------------------------------------------------------------------


def check(cues: list[Cue], words: tuple[Word, ...]) -> None:
    """What holds for any words whatever: all of them there, in order, on two lines that fit, one cue at a time."""
    assert [word for cue in cues for line in cue.lines for word in line.split(" ")] == [word.text for word in words]
    for cue in cues:
        assert cue.start < cue.end
        assert len(cue.lines) <= 2
        for line in cue.lines:
            assert len(line) <= CONFIG.line_length or " " not in line
    assert all(a.end <= b.start for a, b in itertools.pairwise(cues))


def test_subtitles_of_speech_keep_to_the_conventions(transcript: Transcript) -> None:
    cues = make_cues(transcript.words)
    check(cues, transcript.words)
    for cue in cues:
        assert CONFIG.shortest - 0.001 <= cue.end - cue.start <= CONFIG.longest
        assert sum(map(len, cue.lines)) / (cue.end - cue.start) <= CONFIG.reading_speed
    assert all(b.start - a.end >= CONFIG.gap - 0.001 for a, b in itertools.pairwise(cues))


def test_subtitles_end_at_pauses_and_not_in_the_middle_of_them() -> None:
    cues = make_cues(said((0.0, "this is the one"), (3.0, "and this is the other")).words)
    assert [cue.lines for cue in cues] == [("this is the one",), ("and this is the other",)]
    assert cues[1].start == 3.0


def test_a_short_word_stands_long_enough_to_be_read() -> None:
    (cue,) = make_cues([Word("no", 10.0, 10.1, 1.0)])
    assert cue.end - cue.start == pytest.approx(CONFIG.shortest)


def test_a_short_subtitle_gives_way_to_the_next() -> None:
    first, second = make_cues([Word("no", 10.0, 10.1, 1.0), Word("x" * 90, 10.7, 12.0, 1.0)])
    assert second.start == 10.7
    assert first.end == pytest.approx(10.7 - CONFIG.gap)


def test_fast_speech_loses_nothing() -> None:
    words = said((0.0, " ".join(f"word{i}" for i in range(200))), rate=12.0).words
    cues = make_cues(words)
    check(cues, words)
    assert all(cue.end - cue.start > 0.5 for cue in cues)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("abcdefghij'", min_size=1, max_size=14) | st.sampled_from(sorted(CLINGING)) | st.just("x" * 60),
            st.floats(0.0, 12.0).map(lambda x: x if x > 6.0 else x / 20),  # to the next word: mostly little
            st.floats(0.02, 1.5),
        ),
        max_size=60,
    )
)
def test_any_words_make_subtitles(drawn: list[tuple[str, float, float]]) -> None:
    words, now = [], 0.0
    for text, gap, duration in drawn:
        words.append(Word(text, now + gap, now + gap + duration, 1.0))
        now = words[-1].end
    check(make_cues(words), tuple(words))


def test_lines_break_where_it_reads_well() -> None:
    assert break_lines(["short"], 42) == ("short",)
    text = "surrounded by the bishop and the magnates of the county"
    assert break_lines(text.split(), 42) == ("surrounded by the bishop", "and the magnates of the county")
    one = "a" * 50
    assert break_lines([one], 42) == (one,)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, ["one\n", "two\n"])
    assert path.read_bytes() == b"one\ntwo\n"

    def interrupted() -> Iterator[str]:
        yield "three\n" * 10_000
        assert path.read_bytes() == b"one\ntwo\n"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted())
    assert path.read_bytes() == b"one\ntwo\n"
    assert os.listdir(path.parent) == ["a.txt"]  # noqa: PTH208
    write_atomically(path, ["four\n"])
    assert path.read_bytes() == b"four\n"


def test_files_have_the_mode_that_others_have(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.txt", ["a"])
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(EdgeSttError, match=r"cannot write .*a\.txt: File too large"):
            write_atomically(tmp_path / "a.txt", ["x" * 100_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "folder.txt", tmp_path / ("n" * 300), Path("/proc/a.txt")):
        with pytest.raises(EdgeSttError, match="cannot write") as raised:
            write_atomically(path, ["a"])
        assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.txt"]


def test_lone_surrogates_are_written_escaped(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", ["caf\udce9\n"])
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "caf\\udce9\n"


def test_what_is_no_regular_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    """As root, a file put in the place of /dev/full or of a pipe would be in the way of every program."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(EdgeSttError, match="cannot write /dev/full: No space left"):
        write_atomically(Path("/dev/full"), "text")
    assert Path("/dev/full").is_char_device()


def test_a_link_keeps_pointing_where_it_does(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, file = tmp_path / "link.txt", tmp_path / "elsewhere" / "file.txt"
    link.symlink_to(file)
    write_atomically(link, "text")
    assert link.is_symlink()
    assert file.read_text() == "text"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "link.txt"]
