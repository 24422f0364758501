"""The page of errors in a real browser (Debian's chromium, headless), spoken to over its debugging pipe."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_stt import __version__
from edge_stt.audio import read_audio
from edge_stt.benchmark import load_set, run
from edge_stt.engines import Variant
from edge_stt.error_page import SPECTROGRAM_WIDTH, encode_audio, error_page, spectrogram_png
from edge_stt.figures import Scored, tabulate
from edge_stt.machine import condition, machine
from edge_stt.report import Report

from .conftest import DEMO, ROOT

pytest.importorskip("jiwer", reason="needs the bench extra")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")

EVIL = '</script><img src=x onerror="window.broken=1"> & <b>"x"</b>\u2028'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scored]]:
    """A page of real results: three clips, two variants, one speaker with a name that is an attack."""
    folder = tmp_path_factory.mktemp("page")
    clips = [DEMO, *sorted((ROOT / "tests" / "data").glob("*.opus"))]
    speakers = ["LJ", "LJ", EVIL]
    texts = [c.with_suffix(".txt").read_text(encoding="utf-8").strip() for c in clips]
    items = [  # with a word that nobody says, for the page begins with the clips that have errors
        {"audio_filepath": str(c), "text": f"{t} indeed", "speaker": s}
        for c, t, s in zip(clips, texts, speakers, strict=True)
    ]
    manifest = folder / "a<i>b.jsonl"
    manifest.write_text("".join(json.dumps(item) + "\n" for item in items))
    sets = [load_set(manifest)]
    measured = run(sets, [Variant(decoder="greedy"), Variant(decoder="greedy", threads=2)], 1)
    scored = tabulate(measured, sets)
    report = Report(__version__, machine(), condition(), condition(), 1, scored, [], measured.failures)
    (folder / "errors.html").write_text(error_page(report, sets), encoding="utf-8")
    return folder / "errors.html", scored


class Browser:
    """A headless chromium with one page, over ``--remote-debugging-pipe``: JSON messages that end in NUL."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--mute-audio", "--remote-debugging-pipe"]
        options += ["--autoplay-policy=no-user-gesture-required", "--window-size=1300,1000"]

        def descriptors() -> None:  # the browser reads 3 and writes 4
            ends = os.dup(to_read), os.dup(to_write)
            os.dup2(ends[0], 3, inheritable=True)
            os.dup2(ends[1], 4, inheritable=True)

        self._process = subprocess.Popen(
            [CHROMIUM, *options, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=descriptors,  # noqa: PLW1509 - pass_fds cannot give them other numbers, and no thread runs
        )
        os.close(to_read)
        os.close(to_write)
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 1 << 20)
            assert data, "the browser went away"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)  # type: ignore[no-any-return]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]  # type: ignore[no-any-return]

    def open(self, path: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.js("new Promise(r => document.readyState === 'complete' ? r() : addEventListener('load', () => r()))")

    def js(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@needs_browser
def test_the_page_shows_what_was_measured(made: tuple[Path, list[Scored]], browser: Browser) -> None:
    path, scored = made
    browser.open(path)
    row = scored[0].row
    shown = re.search(r"WER ([\d.]+) %", browser.js("document.getElementById('figures').textContent"))
    assert shown
    assert float(shown[1]) == pytest.approx(row.wer, abs=0.0501)  # a browser rounds halves up
    assert browser.js("document.querySelectorAll('article').length") == 3
    counts = {
        kind: browser.js(f"document.querySelectorAll('article .{kind}').length") for kind in ("sub", "del", "ins")
    }
    assert counts == {"sub": row.substitutions, "del": row.deletions, "ins": row.insertions}
    shown = browser.js(
        "[...document.querySelectorAll('article')].map(a => [a.dataset.id, "
        "[...a.querySelectorAll('.reference')].map(s => s.textContent).filter(t => t).join(' '), "
        "[...a.querySelectorAll('.hypothesis')].map(s => s.textContent).filter(t => t).join(' ')])"
    )
    assert sorted(map(tuple, shown)) == sorted((s.id, s.reference, s.hypothesis) for s in scored[0].scores)
    problems = [e for e in browser.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert problems == []


@needs_browser
def test_nothing_is_loaded_from_anywhere(made: tuple[Path, list[Scored]], browser: Browser) -> None:
    browser.open(made[0])
    browser.js("document.querySelectorAll('audio').forEach(a => a.load())")
    requested = [
        e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"
    ]
    assert made[0].as_uri() in requested
    assert all(url.startswith(("data:", made[0].as_uri())) for url in requested)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", made[0].read_text(encoding="utf-8"))


@needs_browser
def test_texts_are_texts(made: tuple[Path, list[Scored]], browser: Browser) -> None:
    """The name of a speaker that tries to be markup is shown as it is written."""
    browser.open(made[0])
    assert browser.js(
        "window.broken === undefined && document.querySelectorAll('article b b, img[src=x]').length === 0"
    )
    names = browser.js("[...document.getElementById('speaker').options].map(o => o.value)")
    assert any(EVIL in name for name in names)
    assert "a<i>b" in browser.js("document.title")


@needs_browser
def test_confusions_come_by_frequency_and_filter(made: tuple[Path, list[Scored]], browser: Browser) -> None:
    browser.open(made[0])
    buttons = "[...document.querySelectorAll('#confusions button')]"
    counts = [int(c) for c in browser.js(f"{buttons}.map(b => b.lastChild.textContent)")]
    assert counts == sorted(counts, reverse=True)
    row = made[1][0].row
    assert sum(counts) == row.substitutions + row.deletions + row.insertions
    browser.js(f"{buttons}.at(-1).click()")
    chosen = browser.js("document.querySelector('#confusions [aria-pressed=true]').firstChild.textContent")
    left, right = chosen.split(" → ")
    found = browser.js(
        "[...document.querySelectorAll('article')].map(a => [...a.querySelectorAll('.pair')].map(p => "
        "[p.firstChild.textContent || '∅', p.lastChild.textContent || '∅']))"
    )
    assert found
    assert all([left, right] in pairs for pairs in found)
    browser.js("document.querySelector('#confusions [aria-pressed=true]').click()")
    assert browser.js("document.querySelectorAll('article').length") == 3


@needs_browser
def test_filters_by_speaker_text_and_result(made: tuple[Path, list[Scored]], browser: Browser) -> None:
    browser.open(made[0])
    choose = (
        "(id, value) => { const e = document.getElementById(id); e.value = value; "
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true})); }"
    )
    name = browser.js(
        "[...document.getElementById('speaker').options].map(o => o.value).find(v => v.includes('script'))"
    )
    browser.js(f"({choose})('speaker', {json.dumps(name)})")
    assert browser.js("document.querySelectorAll('article').length") == 1
    browser.js(f"({choose})('speaker', '')")
    word = made[1][0].scores[1].reference.split()[-1]
    browser.js(f"({choose})('search', {json.dumps(word)})")
    expected = [s.id for s in made[1][0].scores if word in f"{s.reference}\n{s.hypothesis}\n{s.id}"]
    assert sorted(browser.js("[...document.querySelectorAll('article')].map(a => a.dataset.id)")) == sorted(expected)
    browser.js(f"({choose})('search', '')")
    browser.js(f"({choose})('result', '1')")
    assert "2 threads" in browser.js("document.getElementById('result').selectedOptions[0].textContent")
    assert browser.js("document.querySelectorAll('article').length") == 3


@needs_browser
def test_a_word_plays_the_audio_from_its_start(made: tuple[Path, list[Scored]], browser: Browser) -> None:
    browser.open(made[0])
    browser.js(
        "(async () => { const a = document.querySelector('audio'); a.load(); "
        "await new Promise((r, no) => { a.onloadedmetadata = r; a.onerror = no; }); })()"
    )
    durations = {s.id: m.duration for s, m in zip(made[1][0].scores, made[1][0].measured, strict=True)}
    first = browser.js("document.querySelector('article').dataset.id")
    assert browser.js("document.querySelector('audio').duration") == pytest.approx(durations[first], abs=0.05)
    title = browser.js("document.querySelectorAll('article')[0].querySelectorAll('.pair.seek')[2].title")
    start = float(title.split("–")[0])
    browser.js("document.querySelectorAll('article')[0].querySelectorAll('.pair.seek')[2].click()")
    browser.js("new Promise(r => setTimeout(r, 700))")
    now = browser.js("document.querySelector('audio').currentTime")
    assert start + 0.1 < now < start + 3.0
    assert not browser.js("document.querySelector('audio').paused")
    assert browser.js("document.querySelector('.spectrogram i').style.left") != ""


@needs_browser
def test_the_spectrogram_is_a_picture(made: tuple[Path, list[Scored]], browser: Browser) -> None:
    browser.open(made[0])
    size = browser.js(
        "(async () => { const i = document.querySelector('.spectrogram img'); await i.decode(); "
        "return [i.naturalWidth, i.naturalHeight]; })()"
    )
    assert size[1] == 80
    assert 100 < size[0] <= SPECTROGRAM_WIDTH
    # What is seen is more than a blank page: a screenshot of a page of colours does not compress to nothing.
    assert len(browser.picture()) > 50_000


# --- without a browser ----------------------------------------------------------------------------------------------


def test_the_audio_in_the_page_is_the_audio(made: tuple[Path, list[Scored]]) -> None:
    page = made[0].read_text(encoding="utf-8")
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert len(data["clips"]) == 3  # shared by the two results
    kind, content = data["clips"][0]["audio"].split(";base64,")
    assert kind in ("data:audio/ogg", "data:audio/flac")
    decoded, rate = soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="float32")
    original = read_audio(DEMO)
    assert len(decoded) * 16_000 / rate == pytest.approx(len(original), abs=200)
    count = min(len(decoded), len(original))
    assert rate == 16_000
    assert np.corrcoef(decoded[:count], original[:count])[0, 1] > 0.95  # Opus is lossy


def decode_png(png: bytes) -> np.ndarray[Any, Any]:
    """Pixels of an indexed PNG without filters, each chunk's checksum looked at."""
    at, image, width, height = 8, b"", 0, 0
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + content)
        if kind == b"IHDR":
            width, height = struct.unpack(">II", content[:8])
        elif kind == b"IDAT":
            image += content
        at += 12 + length
    lines = np.frombuffer(zlib.decompress(image), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:]


def test_a_tone_is_a_line_at_its_height() -> None:
    """Low frequencies are below: a tone of 300 Hz is a bright line further down than one of 4 kHz."""
    heights = []
    for frequency in (300.0, 4000.0):
        tone = np.sin(2 * np.pi * frequency * np.arange(32_000) / 16_000).astype(np.float32) * 0.3
        pixels = decode_png(spectrogram_png(tone))
        assert pixels.shape == (80, 198)
        rows = pixels.argmax(axis=0)
        assert np.ptp(rows) <= 1
        heights.append(int(rows[0]))
    assert heights[0] > heights[1] + 30


@pytest.mark.parametrize("samples", [0, 100, 400, 16_000 * 25])
def test_clips_of_any_length_have_pictures(samples: int) -> None:
    pixels = decode_png(spectrogram_png(np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)))
    assert pixels.shape[0] == 80
    assert 1 <= pixels.shape[1] <= SPECTROGRAM_WIDTH


def test_an_empty_clip_can_be_encoded() -> None:
    kind, content = encode_audio(np.zeros(0, np.float32))
    assert kind.startswith("audio/")
    assert content
