"""What arguments stand for, where results go, and what is refused before any work."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

from edge_stt.errors import EdgeSttError, UsageError
from edge_stt.inputs import Recording, find_recordings, output_paths
from edge_stt.interrupts import SIGNALS, Interrupted, Interrupts
from edge_stt.live import end_of
from edge_stt.runs import OutputOptions, Run, plan


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def found(root: Path, *arguments: str) -> list[str]:
    return [str(r.path.relative_to(root)) for r in find_recordings([root / a for a in arguments]).recordings]


def recordings(*paths: str) -> list[Recording]:
    return [Recording(Path("/in", path), PurePath(path)) for path in paths]


def test_folders_give_sound_files_at_any_depth_in_order(tmp_path: Path) -> None:
    tree(tmp_path, "b.wav", "a.FLAC", "deep/er/z.opus", "deep/a.mp3", "notes.txt", ".hidden.wav", ".git/x.wav", "none")
    assert found(tmp_path, ".") == ["a.FLAC", "b.wav", "deep/a.mp3", "deep/er/z.opus"]
    names = [str(r.name) for r in find_recordings([tmp_path / "deep"]).recordings]
    assert names == ["a.mp3", "er/z.opus"]


def test_files_that_are_named_are_taken_whatever_they_are_called(tmp_path: Path) -> None:
    tree(tmp_path, "memo", "b.wav")
    assert found(tmp_path, "memo", "missing.wav", "b.wav", "memo") == ["memo", "missing.wav", "b.wav"]


def test_patterns(tmp_path: Path) -> None:
    tree(tmp_path, "a1.wav", "a2.wav", "b/a3.wav", "b/c/a4.wav", "odd[1].wav")
    assert found(tmp_path, "a?.wav") == ["a1.wav", "a2.wav"]
    assert found(tmp_path, "**/a[1-4].wav") == ["a1.wav", "a2.wav", "b/a3.wav", "b/c/a4.wav"]
    assert found(tmp_path, "odd[1].wav") == ["odd[1].wav"]  # a name that is there is no pattern
    assert found(tmp_path, "*", "a1.wav") == ["a1.wav", "a2.wav", "b/a3.wav", "b/c/a4.wav", "odd[1].wav"]
    assert "check the pattern" in find_recordings([tmp_path / "z*.wav"]).missing[0]


def test_what_is_passed_over_is_said(tmp_path: Path) -> None:
    tree(tmp_path, "in/a.wav", "in/b.m4a", "in/c.m4a", "in/d.webm", "none/a.jpg")
    result = find_recordings([tmp_path / "in", tmp_path / "none"])
    assert len(result.recordings) == 1
    assert "2 .m4a, 1 .webm" in result.notes[0]
    assert "no sound files" in result.missing[0]


def test_pipes_in_folders_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    tree(tmp_path, "a.wav")
    (tmp_path / "broken.wav").symlink_to("nowhere")
    assert found(tmp_path, ".") == ["a.wav", "broken.wav"]  # reading the broken link will say what is wrong
    assert found(tmp_path, "pipe.wav") == ["pipe.wav"]


def test_a_name_that_is_too_long_is_a_file_that_is_not_there() -> None:
    path = Path("/tmp", "a" * 300 + ".wav")
    assert [r.path for r in find_recordings([path]).recordings] == [path]


@pytest.mark.parametrize(
    ("name", "keep_suffix", "expected"),
    [
        ("talk.wav", False, "talk.srt"),
        ("talk.wav", True, "talk.wav.srt"),
        ("deep/er/talk.OPUS", False, "deep/er/talk.srt"),
        ("meeting 12.30", False, "meeting 12.30.srt"),
        ("2024.05.01 10.30.wav", False, "2024.05.01 10.30.srt"),
        (".wav", False, ".wav.srt"),
    ],
)
def test_names_of_results(name: str, keep_suffix: bool, expected: str) -> None:
    (outputs,) = output_paths(recordings(name), Path("/out"), ["srt"], keep_suffix)
    assert outputs == {"srt": Path("/out", expected)}


def test_two_of_one_name_cost_only_the_second() -> None:
    first, second, third = output_paths(recordings("a.mp3", "a.wav", "b.wav"), Path("/out"), ["txt", "srt"])
    assert isinstance(first, dict)
    assert isinstance(third, dict)
    assert (
        second
        == "/in/a.wav: would be written to /out/a.txt, as /in/a.mp3 is; --keep-suffix gives each a file of its own"
    )
    assert all(isinstance(o, dict) for o in output_paths(recordings("a.mp3", "a.wav"), Path("/out"), ["txt"], True))
    same = [Recording(Path("x/a.wav"), PurePath("a.wav")), Recording(Path("y/a.wav"), PurePath("a.wav"))]
    assert "the folder above both" in str(output_paths(same, Path("/out"), ["txt"], True)[1])


def test_a_recording_is_never_written_over() -> None:
    listed = [Recording(Path("/in/a.wav"), PurePath("a.wav")), Recording(Path("/in/a.txt"), PurePath("a.txt"))]
    assert "is itself to be read" in str(output_paths(listed, Path("/in"), ["txt"])[0])


def test_options_that_cannot_be_together(tmp_path: Path) -> None:
    for options, text in (
        (OutputOptions(("txt", "nonsense")), "unknown format 'nonsense'"),
        (OutputOptions(("txt", "srt")), "several need --output-dir"),
        (OutputOptions(resume=True), "need --output-dir"),
        (OutputOptions(folder=tmp_path, resume=True, overwrite=True), "give one of them"),
    ):
        with pytest.raises(UsageError, match=text):
            options.check()
    with pytest.raises(UsageError, match="srt of several recordings"):
        plan(recordings("a.wav", "b.wav"), OutputOptions(("srt",)))


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(tmp_path: Path) -> None:
    OutputOptions(folder=tmp_path / "new" / "er").check()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        OutputOptions(folder=tmp_path / "file").check()
    with pytest.raises(EdgeSttError, match="cannot be made"):
        OutputOptions(folder=tmp_path / "file" / "below").check()
    with pytest.raises(EdgeSttError, match=r"cannot be (made|written)"):
        OutputOptions(folder=Path("/proc/here")).check()


def test_plans_with_what_is_there(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "a.srt", "b.txt")
    both = ("txt", "srt")
    run = plan(recordings("a.wav", "b.wav", "c.wav"), OutputOptions(both, tmp_path))
    assert [job.path for job in run.todo] == ["/in/c.wav"]
    assert sorted(run.refused) == [0, 1]
    assert "--overwrite replaces it, --resume leaves it" in run.refused[0]
    run = plan(recordings("a.wav", "b.wav", "c.wav"), OutputOptions(both, tmp_path, resume=True))
    assert run.skipped == 1
    assert [sorted(job.outputs) for job in run.todo] == [["srt"], ["srt", "txt"]]
    run = plan(recordings("a.wav", "b.wav"), OutputOptions(both, tmp_path, overwrite=True))
    assert [sorted(job.outputs) for job in run.todo] == [["srt", "txt"]] * 2


def test_summaries() -> None:
    run = Run(plan(recordings("a.wav", "b.wav", "c.wav"), OutputOptions()).jobs, to_files=True, skipped=4, done=2)
    assert (run.summary(), run.exit_code) == (["2 of 7 files transcribed, 4 were there before"], 0)
    run.failures.append("c.wav: not audio")
    assert run.summary() == ["c.wav: not audio", "2 of 7 files transcribed, 1 failed, 4 were there before"]
    assert run.exit_code == 1
    run.interrupted = Interrupted(SIGNALS[0])
    last = "stopped by SIGINT: 2 of 7 files done, 1 failed, 4 were there before, --resume goes on from here"
    assert run.summary()[1:] == [last]
    assert run.exit_code == 130


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C is not ignored, though a shell may have started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_a_signal_at_work_waits_for_the_next_piece_and_one_at_waiting_does_not() -> None:
    for number in SIGNALS:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)  # at work: remembered
            with pytest.raises(Interrupted, match=number.name):
                interrupts.check()
        with Interrupts() as interrupts, pytest.raises(Interrupted):
            interrupts.wait(lambda number=number: os.kill(os.getpid(), number) or pytest.fail("went on"))  # type: ignore[misc]


def test_the_end_of_a_long_line_is_shown() -> None:
    assert end_of("one two", 7) == "one two"
    assert end_of("one two three", 7) == "… three"
    assert len(end_of("x" * 100, 1)) <= 1


def test_a_pattern_takes_each_file_once_though_links_lead_round(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("a.wav", "inner/b.wav"):
        (tmp_path / name).write_text("")
    (tmp_path / "inner" / "round").symlink_to(tmp_path)
    (tmp_path / "other.wav").symlink_to(tmp_path / "a.wav")  # a name of its own, as in a folder
    found = find_recordings([tmp_path / "**" / "*.wav"])
    assert [str(r.path.relative_to(tmp_path)) for r in found.recordings] == ["a.wav", "inner/b.wav", "other.wav"]
    assert not found.missing


def test_a_pattern_comes_to_an_end_where_several_links_lead_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each more of them doubles the ways that there are: two are more than can be gone."""
    (tmp_path / "in[n]er" / "deep").mkdir(parents=True)
    (tmp_path / "in[n]er" / ".hidden").mkdir()
    names = ("a.wav", "in[n]er/b.wav", "in[n]er/deep/c.wav", "in[n]er/.hidden/d.wav", "in[n]er/.e.wav")
    for name in names:
        (tmp_path / name).write_text("")
    for link in ("one", "two"):
        (tmp_path / "in[n]er" / link).symlink_to(tmp_path)
        (tmp_path / "in[n]er" / "deep" / link).symlink_to(tmp_path / "in[n]er")
    monkeypatch.chdir(tmp_path)
    wanted = ["a.wav", "in[n]er/b.wav", "in[n]er/deep/c.wav"]
    for pattern in ("**/*.wav", "**", "**/**/*.wav", "**/deep/../**/?.wav"):
        matched = find_recordings([Path(pattern)])
        assert sorted({os.path.relpath(r.path.resolve(), tmp_path.resolve()) for r in matched.recordings}) == wanted
        assert len(matched.recordings) == len(wanted)
    matched = find_recordings([tmp_path / "in*" / "**" / "[bc].wav"])
    assert [r.path for r in matched.recordings] == [tmp_path / name for name in wanted[1:]]
    assert find_recordings([Path("nothing/**/*.wav")]).missing
