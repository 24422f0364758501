"""The Wyoming server, spoken to by clients that were not made here; several at once, hostile ones, systemd's socket."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import wave
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edge_stt
from edge_stt.audio import read_audio
from edge_stt.commands.serve import run
from edge_stt.endpointing import PRESETS
from edge_stt.errors import EdgeSttError, UsageError
from edge_stt.language import load_language
from edge_stt.streaming import Final, StreamingTranscriber
from edge_stt.wyoming.config import ServeConfig, ServedRecogniser, WyomingConfig
from edge_stt.wyoming.protocol import Address, ProtocolError
from edge_stt.wyoming.recognition import (
    MAX_PHRASES,
    PcmDecoder,
    PcmFormat,
    Recogniser,
    Recognition,
    favoured_phrases,
)
from edge_stt.wyoming.server import Server as LocalServer
from edge_stt.wyoming.server import serve

from .conftest import DEMO, ROOT
from .daemon import MODERN, MODERN_TEXT, WAIT

wyoming = pytest.importorskip("wyoming", reason="needs the dev extra")
from wyoming.asr import Transcribe, Transcript  # noqa: E402
from wyoming.audio import AudioChunk, AudioStart, AudioStop  # noqa: E402
from wyoming.client import AsyncClient  # noqa: E402
from wyoming.error import Error  # noqa: E402
from wyoming.event import Event  # noqa: E402
from wyoming.info import Describe, Info  # noqa: E402
from wyoming.ping import Ping, Pong  # noqa: E402

Samples = npt.NDArray[np.float32]


class Server:
    """A running `edge-stt serve`; ``uri`` is where it listens, ``log`` what it said."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None, command: list[str] | None = None) -> None:
        command = command or [sys.executable, "-m", "edge_stt.cli", "serve"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )
        self.log = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def wait_for(self, pattern: str, timeout: float = WAIT, after: int = 0) -> re.Match[str]:
        """The first match in the log from a place on."""
        end = time.monotonic() + timeout
        while (found := re.search(pattern, self.log[after:])) is None:
            assert time.monotonic() < end, f"no {pattern!r}: {self.log}"
            assert self.process.poll() is None, f"the server ended: {self.log}"
            time.sleep(0.02)
        return found

    @property
    def uri(self) -> str:
        return self.wait_for(r"listening on (\S+)")[1]

    @property
    def port(self) -> int:
        return int(self.uri.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server("--wyoming", "tcp://127.0.0.1:0", "--names-weight", 6, "--max-clients", 8)
    yield found
    alive = found.process.poll() is None
    found.kill()
    assert alive, found.log
    assert "unexpected" not in found.log
    assert "Traceback" not in found.log
    assert MODERN_TEXT not in found.log  # what was said is nobody's business


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    servers: list[Server] = []

    def one(*arguments: object, **options: Any) -> Server:
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield one
    for found in servers:
        found.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path, which is too long for a Unix socket."""
    path = Path(subprocess.check_output(["mktemp", "-d", "/tmp/edge-stt-XXXXXX"], text=True).strip())
    yield path
    shutil.rmtree(path, ignore_errors=True)


def int16(samples: Samples) -> bytes:
    return (samples * 32_767).astype("<i2").tobytes()


DEMO_PCM, MODERN_PCM = int16(read_audio(DEMO)), int16(read_audio(MODERN))


async def ask(
    client: AsyncClient, audio: bytes, rate: int = 16_000, width: int = 2, channels: int = 1, **request: Any
) -> list[Event]:
    """As Home Assistant does: a request and its audio; returns what came back, up to the transcript's end."""
    await client.write_event(Transcribe(**request).event())
    await client.write_event(AudioStart(rate, width, channels).event())
    size = 1_024 * width * channels
    for start in range(0, len(audio), size):
        await client.write_event(AudioChunk(rate, width, channels, audio[start : start + size]).event())
    await client.write_event(AudioStop().event())
    events: list[Event] = []
    while not events or events[-1].type not in ("transcript-stop", "error"):
        event = await asyncio.wait_for(client.read_event(), WAIT)
        assert event is not None
        events.append(event)
    return events


def transcript(events: list[Event]) -> str:
    (found,) = [event for event in events if Transcript.is_type(event.type)]
    return Transcript.from_event(found).text


def with_client(uri: str, action: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with AsyncClient.from_uri(uri) as client:
            return await action(client)

    return asyncio.run(run())


def request(uri: str, audio: bytes, **arguments: Any) -> list[Event]:
    found: list[Event] = with_client(uri, lambda client: ask(client, audio, **arguments))
    return found


async def describe(client: AsyncClient) -> Info:
    await client.write_event(Describe().event())
    event = await asyncio.wait_for(client.read_event(), WAIT)
    assert event is not None
    return Info.from_event(event)


def test_it_says_what_it_is(server: Server) -> None:
    info = with_client(server.uri, describe)
    (program,) = info.asr
    assert program.installed
    assert program.supports_transcript_streaming
    (model,) = program.models
    assert model.installed
    assert model.languages == ["en"]

    async def ping(client: AsyncClient) -> Event | None:
        await client.write_event(Event("of-a-later-version", {"what": "ever"}, b"payload"))
        await client.write_event(Ping("are you there?").event())
        return await client.read_event()

    assert Pong.from_event(with_client(server.uri, ping)).text == "are you there?"


def test_speech_becomes_text_while_it_is_said(server: Server) -> None:
    """Twice over one connection: what the streaming recogniser gives, in chunks that join to the transcript."""
    transcriber = edge_stt.load_model()
    stream = StreamingTranscriber(transcriber, PRESETS["relaxed"])
    expected = stream.accept_audio(np.frombuffer(DEMO_PCM, "<i2")) + stream.finish()
    text = " ".join(event.text for event in expected if isinstance(event, Final))

    async def twice(client: AsyncClient) -> list[list[Event]]:
        return [await ask(client, DEMO_PCM, language=language) for language in ("en", "en_GB")]

    for events in with_client(server.uri, twice):
        assert transcript(events) == text
        kinds = [event.type for event in events]
        chunks = [event.data["text"] for event in events if event.type == "transcript-chunk"]
        assert kinds == ["transcript-start", *["transcript-chunk"] * len(chunks), "transcript", "transcript-stop"]
        assert "".join(chunks) == text
        assert len(chunks) > 3


def test_without_streaming_the_text_is_that_of_transcribe(start: Callable[..., Server], folder: Path) -> None:
    quiet = start("--wyoming", f"unix://{folder}/socket", "--no-streaming")
    assert not with_client(quiet.uri, describe).asr[0].supports_transcript_streaming

    async def one(client: AsyncClient) -> str:
        for message in (AudioStart(16_000, 2, 1), AudioChunk(16_000, 2, 1, DEMO_PCM), AudioStop()):
            await client.write_event(message.event())
        event = await asyncio.wait_for(client.read_event(), WAIT)
        assert event is not None
        return Transcript.from_event(event).text

    assert with_client(quiet.uri, one) == edge_stt.load_model().transcribe(np.frombuffer(DEMO_PCM, "<i2")).text


def test_clients_at_once_get_their_own_text(server: Server) -> None:
    recordings = [MODERN_PCM, DEMO_PCM, MODERN_PCM, DEMO_PCM, b"", MODERN_PCM]
    alone = {audio: transcript(request(server.uri, audio)) for audio in set(recordings)}
    assert alone[b""] == ""
    assert alone[MODERN_PCM] == MODERN_TEXT

    async def all_at_once() -> list[str]:
        async def one(audio: bytes) -> str:
            async with AsyncClient.from_uri(server.uri) as client:
                return transcript(await ask(client, audio))

        return list(await asyncio.gather(*map(one, recordings)))

    assert asyncio.run(all_at_once()) == [alone[audio] for audio in recordings]


def test_a_short_request_does_not_wait_for_a_long_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One client sends a minute at once; another's two seconds are answered in between.

    However fast this machine is, the first second of the long request is held until the short one has been sent; and
    not time is measured but turns of the recogniser.
    """
    turns: list[Recognition] = []
    begun, sent = threading.Event(), threading.Event()
    hear = Recognition.accept

    def accept(recognition: Recognition, data: bytes, pcm: PcmFormat) -> str:
        if not begun.is_set():
            begun.set()
            assert sent.wait(WAIT)
        turns.append(recognition)
        return hear(recognition, data, pcm)

    async def send(client: AsyncClient, audio: bytes) -> None:
        for message in (AudioStart(16_000, 2, 1), AudioChunk(16_000, 2, 1, audio), AudioStop()):
            await client.write_event(message.event())

    async def answer(client: AsyncClient) -> str:
        while True:
            event = await asyncio.wait_for(client.read_event(), WAIT)
            assert event is not None
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text

    async def both() -> tuple[str, int]:
        uri = f"unix://{folder}/socket"
        address = Address.parse(uri)
        running = LocalServer(ServeConfig(), Recogniser(ServeConfig()))
        serving = asyncio.create_task(running.run(address.listen()))
        async with AsyncClient.from_uri(uri) as long, AsyncClient.from_uri(uri) as short:
            await describe(short)  # both are served from here on
            await describe(long)
            await send(long, 10 * DEMO_PCM)
            assert await asyncio.to_thread(begun.wait, WAIT)
            await send(short, MODERN_PCM)
            sent.set()
            text = await answer(short)
            before = len(turns)
            await answer(long)
        running.stopping.set()
        await serving
        return text, before

    monkeypatch.setattr(Recognition, "accept", accept)
    text, before = asyncio.run(both())
    assert text == MODERN_TEXT
    assert len(turns) > 60
    assert before < 30, "turns of both until the short request was answered, which needs two"


def test_names_of_the_request_are_favoured(server: Server) -> None:
    plain = transcript(request(server.uri, DEMO_PCM))
    biased = transcript(request(server.uri, DEMO_PCM, transcript_names=["Kounti Kort", "Küche 2"]))
    assert "kounti kort" not in plain
    assert "kounti kort" in biased
    assert transcript(request(server.uri, DEMO_PCM)) == plain  # they were for one request


def test_names_and_terms_become_hot_words() -> None:
    names = ("Küche 2", "lamp", "…", "x" * 1_000, "Dad's Tür", "²" * 30)
    config = WyomingConfig(names_weight=3.0, terms_weight=1.5)
    english, german = (load_language(name).normaliser for name in ("english", "german"))
    found = favoured_phrases(names, ("lamp", "thermostat"), config, english)
    assert found == {"kuche two": 3.0, "lamp": 3.0, "dad's tur": 3.0, "thermostat": 1.5}
    assert favoured_phrases(names, ("lamp",), WyomingConfig(names_weight=0.0), english) == {"lamp": 1.0}
    assert favoured_phrases(("Küche 2",), (), config, german) == {"küche": 3.0}
    assert len(favoured_phrases([f"lamp {i}" for i in range(9_999)], (), config, english)) == MAX_PHRASES


def test_decoders_are_kept_and_those_that_favour_nothing_stay() -> None:
    recogniser = Recogniser(ServeConfig())
    first = recogniser.start(("lamp",))._transcriber
    assert first is not recogniser.transcriber
    assert first.acoustic is recogniser.transcriber.acoustic  # the network is there once
    assert recogniser.start(("lamp",))._transcriber is first
    assert recogniser.start()._transcriber is recogniser.transcriber
    greedy = Recogniser(ServeConfig(recogniser=ServedRecogniser(decoder="greedy")))
    assert greedy.start(("lamp",))._transcriber is greedy.transcriber


# --- audio ----------------------------------------------------------------------------------------------------------


def encoded(samples: Samples, width: int, channels: int) -> bytes:
    """PCM as a recorder writes it, the same in all channels."""
    wide = np.repeat(samples[:, None], channels, axis=1).astype(np.float64)
    if width == 1:
        return np.round(wide * 127 + 128).astype(np.uint8).tobytes()
    integers = np.round(wide * (2 ** (8 * width - 1) - 1)).astype("<i4")
    return integers.view(np.uint8).reshape(-1, 4)[:, :width].tobytes() if width < 4 else integers.tobytes()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("size", [7, 1_000, 1_000_000])
def test_pcm_of_any_width_and_channels(width: int, channels: int, size: int) -> None:
    samples = np.sin(np.arange(3_000, dtype=np.float32) / 20) * np.float32(0.9)
    data = encoded(samples, width, channels)
    decoder = PcmDecoder(PcmFormat(16_000, width, channels))
    pieces = [decoder.accept(data[start : start + size]) for start in range(0, len(data), size)]
    heard = np.concatenate([*pieces, decoder.finish()])
    assert heard.dtype == np.float32
    assert np.abs(heard - samples).max() < 1.5 / 2 ** min(8 * width - 1, 15)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_pcm_of_any_rate(rate: int) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    decoder = PcmDecoder(PcmFormat(rate, 4, 1))
    data = encoded(tone, 4, 1)
    heard = np.concatenate(
        [*(decoder.accept(data[i : i + 4_000]) for i in range(0, len(data), 4_000)), decoder.finish()]
    )
    assert abs(len(heard) - 16_000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(heard)) / 16_000)
    assert np.abs(heard - expected)[1_000:-1_000].max() < 0.01


def test_other_formats_give_the_same_text(server: Server) -> None:
    samples = np.repeat(read_audio(MODERN), 3)
    events = request(server.uri, encoded(samples, 3, 2), rate=48_000, width=3, channels=2)
    assert transcript(events) == MODERN_TEXT


def test_a_format_may_change_on_the_way() -> None:
    recognition = Recogniser(ServeConfig()).start()
    half = len(MODERN_PCM) // 4 * 2
    recognition.accept(MODERN_PCM[:half], PcmFormat())
    wide = encoded(np.frombuffer(MODERN_PCM[half:], "<i2").astype(np.float32) / 32_768, 4, 2)
    recognition.accept(wide, PcmFormat(16_000, 4, 2))
    list(recognition.finish())
    assert recognition.text == MODERN_TEXT


# --- clients that are not well ---------------------------------------------------------------------------------------


def chunk(**data: Any) -> bytes:
    return json.dumps({"type": "audio-chunk", "data": data, "payload_length": 4}).encode() + b"\nabcd"


HOSTILE = {
    "another protocol": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not JSON"),
    "a header without end": (b'{"type": "' + b"x" * (1 << 20), "header of more than"),
    "a billion bytes of data": (b'{"type": "describe", "data_length": 1000000000}\n', "data_length of 1000000000"),
    "a billion bytes of audio": (b'{"type": "audio-chunk", "payload_length": 1000000000}\n', "payload_length"),
    "a negative length": (b'{"type": "audio-chunk", "payload_length": -1}\n', "payload_length of -1"),
    "a length that is none": (b'{"type": "audio-chunk", "payload_length": "a\\u001b[2J"}\n', r"of 'a\x1b[2J'"),
    "nesting": (b"[" * 60_000 + b"\n", "not JSON"),
    "a number": (b"5\n", "no JSON object"),
    "no type": (b"{}\n", "without a type"),
    "data of another kind": (b'{"type": "transcribe", "data": [1]}\n', "data that is no JSON object"),
    "data that is no JSON": (b'{"type": "transcribe", "data_length": 3}\nabc', "the data is not JSON"),
    "bytes": (bytes(range(128, 256)) + b"\n", "not JSON"),
    "names that are none": (b'{"type": "transcribe", "data": {"transcript_names": [1]}}\n', "transcript_names"),
    "another language": (b'{"type": "transcribe", "data": {"language": "de-DE"}}\n', "language 'de-DE'"),
    "no rate": (b'{"type": "audio-start", "data": {}}\n', "a rate of None"),
    "a rate of nothing": (chunk(rate=0, width=2, channels=1), "a rate of 0"),
    "a width of nine": (chunk(rate=16_000, width=9, channels=1), "a width of 9"),
    "a thousand channels": (chunk(rate=16_000, width=2, channels=1_000), "1000"),
    "half a message": (b'{"type": "audio-chunk", "payload_length": 100}\nabc', "in the middle of a message"),
    "half a header": (b'{"type": "audio', "in the middle of a header"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_clients_lose_their_connection_alone(server: Server, name: str) -> None:
    sent, said = HOSTILE[name]
    place = len(server.log) if server.uri else 0
    with socket.create_connection(("127.0.0.1", server.port), WAIT) as sock:
        try:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65_536):
                pass
        except TimeoutError:
            raise
        except OSError:  # it hung up before all was said
            pass
    line = server.wait_for(rf"client \d+: .*{re.escape(said)}.*; disconnected", after=place)[0]
    assert len(line) < 300
    assert with_client(server.uri, describe).asr


def test_half_a_surrogate_pair_is_answered(server: Server) -> None:
    place = len(server.log)
    with socket.create_connection(("127.0.0.1", server.port), WAIT) as sock, sock.makefile("rwb") as file:
        file.write(b'{"type": "ping", "data": {"text": "\\ud800"}}\n')
        file.flush()
        header = json.loads(file.readline())
        assert json.loads(file.read(header["data_length"])) == {"text": "\ud800"}
    assert "unexpected" not in "".join(server.log[place:])


def test_a_refusal_is_told_to_the_client(server: Server) -> None:
    async def german(client: AsyncClient) -> Event | None:
        await client.write_event(Transcribe(language="de").event())
        return await client.read_event()

    assert "'de'" in Error.from_event(with_client(server.uri, german)).text


def test_memory_stays_whatever_clients_claim(server: Server) -> None:
    def resident() -> float:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1_024  # type: ignore[index]

    def nuisances(count: int) -> None:
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", server.port), WAIT) as sock:
                sock.sendall(b'{"type": "audio-chunk", "payload_length": 4000000}\n' + bytes(100_000))
            time.sleep(0.01)

    request(server.uri, MODERN_PCM)
    nuisances(20)
    before = resident()
    nuisances(60)
    assert resident() - before < 10


def test_silent_crowded_endless_and_deaf_clients(start: Callable[..., Server]) -> None:
    strict = start(*("--wyoming", "tcp://127.0.0.1:0", "--idle-timeout", 4, "--max-clients", 2, "--longest-request", 5))
    silent = [socket.create_connection(("127.0.0.1", strict.port), WAIT) for _ in range(6)]
    strict.wait_for(r"client \d: refused, there are 2 already")  # two are served, two wait for their places
    strict.wait_for("said nothing for 4 s")
    for sock in silent:
        assert sock.recv(10) == b""
        sock.close()

    async def endless(client: AsyncClient) -> str:
        # All in one message, which the server takes whole: a client that goes on to write when it has been hung up
        # on loses what was said to it.
        await client.write_event(AudioChunk(16_000, 2, 1, DEMO_PCM).event())
        while True:
            event = await asyncio.wait_for(client.read_event(), WAIT)
            assert event is not None
            if Error.is_type(event.type):
                return Error.from_event(event).text

    assert "more than 5 s of audio" in with_client(strict.uri, endless)
    assert transcript(request(strict.uri, MODERN_PCM)) == MODERN_TEXT
    with socket.socket() as sock:  # asks for ever and takes nothing
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.settimeout(1)
        sock.connect(("127.0.0.1", strict.port))
        end = time.monotonic() + WAIT
        unsent = b""
        while "takes nothing" not in strict.log:
            assert time.monotonic() < end, strict.log
            unsent = unsent or b'{"type": "describe"}\n' * 1_000
            try:
                unsent = unsent[sock.send(unsent) :]  # whole messages, however slow the server is
            except TimeoutError:
                continue
            except OSError:
                break
        strict.wait_for("it takes nothing of what is sent; disconnected")


class Watched(LocalServer):
    """Knows the sockets of all clients that came."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.accepted: list[Any] = []

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(writer.get_extra_info("socket"))
        await super()._accept(reader, writer)


def deaf_client(address: tuple[str, int]) -> socket.socket:
    """Asks, has no more to say, and takes nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.settimeout(WAIT)
    sock.connect(address)
    sock.sendall(b'{"type": "describe"}\n')
    sock.shutdown(socket.SHUT_WR)
    return sock


@pytest.mark.parametrize("size", [50_000, 1_000_000])
def test_deaf_clients_keep_no_descriptor(size: int, caplog: pytest.LogCaptureFixture) -> None:
    """The short answer is seen only at the end not to have been taken; for the long one the server waits."""
    recogniser: Any = SimpleNamespace(info=lambda: {"text": "x" * size})
    config = ServeConfig(wyoming=WyomingConfig(max_clients=3, idle_timeout=2.0))

    async def ask_and_take_nothing() -> list[socket.socket]:
        running = Watched(config, recogniser)
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # the clients' too
        address = listening.getsockname()
        serving = asyncio.create_task(running.run([listening]))
        clients = [deaf_client(address) for _ in range(3)]
        end = time.monotonic() + WAIT
        while len(running.accepted) < 3 or any(sock.fileno() >= 0 for sock in running.accepted):
            assert time.monotonic() < end, "a descriptor is kept"
            await asyncio.sleep(0.05)
        running.stopping.set()
        await serving
        return clients

    for sock in asyncio.run(ask_and_take_nothing()):
        with sock, sock.makefile("rb") as file:
            taken = file.read()
        assert taken.startswith(b'{"type": "info"')
        assert len(taken) < size
        assert b'"error"' not in taken
    assert caplog.text.count("it takes nothing of what is sent; disconnected") == (3 if size > 100_000 else 0)


# --- addresses, the end, systemd ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "tcp://",
        "tcp://x:y",
        "tcp://x:99999",
        "http://x:1",
        "unix://relative",
        "unix:///" + "x" * 120,
        "10300",
        "tcp://x/y",
    ],
)
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(uri)


def test_addresses() -> None:
    assert Address.parse("tcp://[::1]:1").host == "::1"
    assert Address.parse("tcp://0.0.0.0").port == 10_300
    assert Address.parse("unix:///run/a b").path == "/run/a b"


@pytest.mark.parametrize(
    "data", [{}, {"rate": True, "width": 2, "channels": 1}, {"rate": 1e5, "width": 2, "channels": 1}]
)
def test_formats_that_are_none(data: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        PcmFormat.of(data)


def failing(*arguments: object) -> tuple[int, str]:
    command = [sys.executable, "-m", "edge_stt.cli", "serve", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def test_what_keeps_it_from_beginning(server: Server, folder: Path) -> None:
    code, line = failing("--wyoming", server.uri)
    assert (code, "Address already in use" in line) == (1, True)
    code, line = failing()
    assert (code, "--wyoming" in line) == (2, True)
    code, line = failing("--check-config", "--decoder", "gready")
    assert (code, "did you mean 'greedy'?" in line) == (2, True)
    config = folder / "serve.toml"
    config.write_text("[wyoming]\nlisten = ['tcp://127.0.0.1:0']\nmax_client = 3\n")
    with pytest.raises(UsageError, match=r"did you mean 'wyoming\.max_clients'"):
        run(config)
    config.write_text("[wyoming]\nlisten = ['somewhere']\n")
    with pytest.raises(UsageError, match="write tcp://HOST:PORT"):
        run(config)
    with pytest.raises(EdgeSttError, match=r"cannot listen on tcp://no\.such\.host\.invalid:1"):
        Address.parse("tcp://no.such.host.invalid:1").listen()
    with pytest.raises(EdgeSttError, match="model package"):
        serve(ServeConfig(ServedRecogniser(model=str(folder)), WyomingConfig(("tcp://127.0.0.1:0",))))


def test_sigterm_finishes_what_is_being_said(start: Callable[..., Server], folder: Path) -> None:
    """A stale socket is replaced; at the end the idle client is let go, the other gets its text, the socket goes."""
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    ending = start("--wyoming", f"unix://{path}")
    assert ending.uri == f"unix://{path}"
    code, line = failing("--wyoming", f"unix://{path}")
    assert (code, "in use by another program" in line) == (1, True)

    async def speak() -> str:
        async with AsyncClient.from_uri(ending.uri) as client, AsyncClient.from_uri(ending.uri) as idle:
            await describe(idle)
            await client.write_event(AudioStart(16_000, 2, 1).event())
            await client.write_event(AudioChunk(16_000, 2, 1, MODERN_PCM).event())
            first = await client.read_event()
            assert first is not None
            ending.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(idle.read_event(), WAIT) is None
            await client.write_event(AudioStop().event())
            while (event := await asyncio.wait_for(client.read_event(), WAIT)) is not None:
                if Transcript.is_type(event.type):
                    return Transcript.from_event(event).text
        return "nothing"

    assert asyncio.run(speak()) == MODERN_TEXT
    assert ending.process.wait(WAIT) == 0
    assert not path.exists()
    assert "Traceback" not in ending.log


def test_systemd_is_told(start: Callable[..., Server], folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(WAIT)
        env = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "4000000"}
        told = start("--wyoming", f"unix://{folder}/socket", "--exit-when-idle", 4, env=env)
        heard: list[str] = []
        while "STOPPING=1" not in heard:
            heard.append(manager.recv(1_000).decode())
    assert heard[0] == "STATUS=loading the model"
    assert "READY=1" in heard
    assert "STATUS=serving 0 clients" in heard
    assert "WATCHDOG=1" in heard
    assert told.process.wait(WAIT) == 0  # nobody came


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="needs systemd-socket-activate")
def test_systemd_opens_the_socket(start: Callable[..., Server], folder: Path) -> None:
    """Started by the first client, on a Unix socket and a port that are not its own to open or remove."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["systemd-socket-activate", "-l", str(folder / "socket"), "-l", f"127.0.0.1:{port}"]
    passed = ["-E", "PYTHONPATH", "-E", "PATH"]
    activated = start(command=[*command, *passed, sys.executable, "-m", "edge_stt.cli", "serve"])
    activated.wait_for("Listening on .* as 4")  # the second of both
    for uri in (f"tcp://127.0.0.1:{port}", f"unix://{folder}/socket"):
        assert transcript(request(uri, MODERN_PCM)) == MODERN_TEXT
    assert activated.stop() == 0
    assert (folder / "socket").exists()


# --- other people's programs ----------------------------------------------------------------------------------------


def test_the_health_check_of_wyoming_faster_whisper(server: Server) -> None:
    pytest.importorskip(
        "wyoming_faster_whisper.health_check", reason="needs pip install --no-deps wyoming-faster-whisper"
    )
    command = [sys.executable, "-m", "wyoming_faster_whisper.health_check", "--uri"]
    done = subprocess.run([*command, server.uri], capture_output=True, text=True, check=False, timeout=WAIT)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, "tcp://127.0.0.1:1"], capture_output=True, text=True, check=False, timeout=WAIT)
    assert done.returncode == 1  # so it can fail


def test_the_http_server_of_wyoming(server: Server) -> None:
    pytest.importorskip("flask", reason="needs the dev extra")
    pytest.importorskip("swagger_ui", reason="needs the dev extra")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(MODERN_PCM)
    command = [sys.executable, "-m", "wyoming.http.asr_server", "--host", "127.0.0.1", "--port", str(port)]
    bridge = subprocess.Popen([*command, "--uri", server.uri], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/api/speech-to-text?language=en&transcript_names=Kitchen%20light"
        end = time.monotonic() + WAIT
        while True:
            try:
                post = urllib.request.Request(url, buffer.getvalue(), {"Content-Type": "audio/wav"})
                with urllib.request.urlopen(post, timeout=WAIT) as answer:
                    assert json.load(answer)["text"] == MODERN_TEXT
                break
            except ConnectionError:
                pass
            except urllib.error.URLError as error:
                assert isinstance(error.reason, ConnectionError), error
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        bridge.kill()
        bridge.wait()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_units(tmp_path: Path) -> None:
    for kind in ("socket", "service"):
        text = (ROOT / "systemd" / f"edge-stt-wyoming.{kind}").read_text()
        (tmp_path / f"edge-stt-wyoming.{kind}").write_text(text.replace("/usr/bin/edge-stt", sys.executable))
    units = [str(tmp_path / f"edge-stt-wyoming.{kind}") for kind in ("socket", "service")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "edge-stt" in line]) == (0, [])
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", units[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
