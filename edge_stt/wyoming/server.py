"""The Wyoming server: any number of clients on one event loop, all recognition in one thread.

That thread takes the clients' audio in turns, a second at most at a time, so that no client waits for another's whole
recording. Whatever a client does, only its own connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..errors import EdgeSttError
from ..notify import Notifier
from .config import ServeConfig
from .protocol import HEADER_BYTES, Address, Message, ProtocolError, read_message
from .recognition import PcmFormat, Recogniser, Recognition

logger = logging.getLogger(__name__)

PLACE_SECONDS = 2.0  # for one of the clients to go, when there are as many as may be
FLUSH_SECONDS = 1.0  # for a client to take what is left, at its end; less than others wait for its place
GRACE_SECONDS = 10.0  # for requests that run when the server is to end
ALIVE_SECONDS = 2.0  # between two proofs that the recogniser still works
FIRST_FD = 3  # sd_listen_fds(3)

T = TypeVar("T")


class Server:
    """Serves until SIGTERM, SIGINT, or, where that is set, until nobody has come for a while."""

    def __init__(self, config: ServeConfig, recogniser: Recogniser, notifier: Notifier | None = None) -> None:
        self.config, self.recogniser = config, recogniser
        self.notifier = notifier or Notifier()
        self.stopping = asyncio.Event()
        self.info = Message("info", recogniser.info())
        self._worker = ThreadPoolExecutor(1, "recogniser")
        self._connections: dict[asyncio.Task[Any], Connection] = {}
        self._numbers = itertools.count(1)
        self._places = asyncio.Semaphore(config.wyoming.max_clients)
        self._waiting = 0  # for a place

    async def do(self, action: Callable[..., T], *arguments: Any) -> T:
        """Run something in the recogniser's thread, in turn."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, action, *arguments)

    async def run(self, sockets: list[socket.socket]) -> None:
        """Serve on listening sockets, which are closed at the end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: logger.error("%s", context.get("exception") or context["message"])
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        servers = [await asyncio.start_server(self._accept, sock=s, limit=HEADER_BYTES) for s in sockets]
        self.notifier.ready()
        watch = loop.create_task(self._watch())
        try:
            await self.stopping.wait()
            self.notifier.stopping()
        finally:
            watch.cancel()
            for server in servers:
                server.close()
            await self._end_connections()
            self._worker.shutdown(wait=False, cancel_futures=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = f"client {next(self._numbers)}"
        try:
            async with self._place():
                await self._attend(Connection(self, name, reader, writer))
        except TimeoutError:
            logger.warning("%s: refused, there are %d already", name, len(self._connections))
        except asyncio.CancelledError:  # the server ends
            pass
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the clients' places; raises `TimeoutError` when none becomes free soon, or too many wait for one."""
        if self._waiting >= self.config.wyoming.max_clients:
            raise TimeoutError
        self._waiting += 1
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    async def _attend(self, connection: Connection) -> None:
        task = asyncio.current_task()
        if self.stopping.is_set() or task is None:
            return
        self._connections[task] = connection
        self._tell()
        try:
            await connection.run()
        finally:
            del self._connections[task]
            self._tell()

    def _tell(self) -> None:
        count = len(self._connections)
        self.notifier.status(f"serving {count} client{'' if count == 1 else 's'}")

    async def _watch(self) -> None:
        """Feed the watchdog, from the recogniser's thread and this loop together; see when nobody is there any more."""
        self._tell()
        idle = 0.0
        while True:
            await self.do(self.notifier.alive)
            await asyncio.sleep(ALIVE_SECONDS)
            idle = 0.0 if self._connections else idle + ALIVE_SECONDS
            if 0.0 < self.config.wyoming.exit_when_idle <= idle:
                logger.info("nobody came for %g s", idle)
                self.stopping.set()

    async def _end_connections(self) -> None:
        """Let requests that run be finished, for a while."""
        for task, connection in self._connections.items():
            if not connection.busy:
                task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=GRACE_SECONDS)
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=1.0)


class Connection:
    """One client: what it asked for, and the request that runs."""

    def __init__(self, server: Server, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.name = server, name
        self._reader, self._writer = reader, writer
        self._names: tuple[str, ...] = ()
        self._terms: tuple[str, ...] = ()
        self._recognition: Recognition | None = None
        self._format = PcmFormat()
        self._shown = False  # some of the request's words
        self._handlers = {
            "describe": self._describe,
            "ping": self._ping,
            "transcribe": self._transcribe,
            "audio-start": self._audio_start,
            "audio-chunk": self._audio_chunk,
            "audio-stop": self._audio_stop,
        }

    @property
    def busy(self) -> bool:
        """Whether a request runs."""
        return self._recognition is not None

    async def run(self) -> None:
        """Answer until the client goes or has to."""
        logger.debug("%s: connected", self.name)
        try:
            await self._answer()
        except asyncio.CancelledError:  # the server ends
            logger.debug("%s: disconnected", self.name)
        except TimeoutError:
            logger.warning(
                "%s: said nothing for %g s; disconnected", self.name, self.server.config.wyoming.idle_timeout
            )
        except OSError as error:
            logger.info("%s: went away: %s", self.name, error.strerror or error)
        except EdgeSttError as error:
            logger.warning("%s: %s; disconnected", self.name, error)
            with contextlib.suppress(OSError, EdgeSttError):
                if not self._writer.is_closing():  # it is, when the client takes nothing
                    await self._send("error", {"text": str(error), "code": "refused"})
        except Exception as error:  # a fault in here must not cost the other clients
            logger.error("%s: unexpected %s: %s; disconnected", self.name, type(error).__name__, error)
        finally:
            await self._hang_up()

    async def _hang_up(self) -> None:
        """Close, while the client still has its place: one that does not read would keep a descriptor for ever."""
        self._writer.close()
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()

    async def _answer(self) -> None:
        while self.busy or not self.server.stopping.is_set():
            async with asyncio.timeout(self.server.config.wyoming.idle_timeout):
                message = await read_message(self._reader)
            if message is None:
                return
            handler = self._handlers.get(message.type)
            if handler is not None:  # others are for other services, or of later versions
                await handler(message)

    async def _send(self, kind: str, data: dict[str, Any] | None = None) -> None:
        await self._write(Message(kind, data or {}))

    async def _write(self, message: Message) -> None:
        self._writer.write(message.encode())
        try:
            async with asyncio.timeout(self.server.config.wyoming.idle_timeout):
                await self._writer.drain()
        except TimeoutError as error:
            self._writer.transport.abort()  # to close it would be to wait until all is sent
            raise ProtocolError("it takes nothing of what is sent") from error

    async def _describe(self, _: Message) -> None:
        await self._write(self.server.info)

    async def _ping(self, message: Message) -> None:
        text = message.data.get("text")
        await self._send("pong", {"text": text} if isinstance(text, str) else {})

    async def _transcribe(self, message: Message) -> None:
        language, known = message.data.get("language"), self.server.recogniser.language
        if isinstance(language, str) and language.replace("_", "-").split("-")[0].lower() not in ("", known):
            raise ProtocolError(f"it asks for the language {language[:20]!r}; the model knows {known}")
        self._names, self._terms = (_texts(message.data, f"transcript_{kind}") for kind in ("names", "terms"))

    async def _audio_start(self, message: Message) -> None:
        self._format = PcmFormat.of(message.data)
        await self._begin()

    async def _audio_chunk(self, message: Message) -> None:
        if {"rate", "width", "channels"} & message.data.keys():  # else as audio-start said
            self._format = PcmFormat.of(message.data)
        recognition = self._recognition or await self._begin()
        size = self._format.bytes_per_second
        for start in range(0, len(message.payload), size):
            piece = message.payload[start : start + size]
            await self._show(await self.server.do(recognition.accept, piece, self._format))

    async def _audio_stop(self, _: Message) -> None:
        recognition = self._recognition or await self._begin()
        steps = recognition.finish()
        while (words := await self.server.do(next, steps, None)) is not None:
            await self._show(words)
        await self._send("transcript", {"text": recognition.text, "language": self.server.recogniser.language})
        if self.server.config.wyoming.streaming:
            await self._send("transcript-stop")
        logger.info("%s: %.1f s of audio, %d words", self.name, recognition.seconds, len(recognition.text.split()))
        self._recognition, self._names, self._terms = None, (), ()

    async def _begin(self) -> Recognition:
        """A new request; one that was not ended is forgotten."""
        self._recognition = await self.server.do(self.server.recogniser.start, self._names, self._terms)
        self._shown = False
        if self.server.config.wyoming.streaming:
            await self._send("transcript-start", {"language": self.server.recogniser.language})
        return self._recognition

    async def _show(self, words: str) -> None:
        """Words as a chunk; chunks joined are the transcript."""
        if words and self.server.config.wyoming.streaming:
            await self._send("transcript-chunk", {"text": f" {words}" if self._shown else words})
            self._shown = True


def _texts(data: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of texts, or nothing."""
    texts = data.get(name) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ProtocolError(f"{name} that are no list of texts")
    return tuple(texts)


def inherited_sockets(environment: Mapping[str, str] | None = None) -> list[socket.socket]:
    """Listening sockets that systemd opened for this process (sd_listen_fds(3)); raises `EdgeSttError` for others."""
    environment = os.environ if environment is None else environment
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    sockets = []
    for number in range(FIRST_FD, FIRST_FD + int(environment["LISTEN_FDS"])):
        try:
            sock = socket.socket(fileno=number)
            listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise EdgeSttError(f"descriptor {number} from systemd is no socket: {error.strerror}") from error
        if not listening:
            raise EdgeSttError(f"socket {number} from systemd does not listen for streams; write ListenStream=")
        os.set_inheritable(number, False)
        sockets.append(sock)
    return sockets


def serve(config: ServeConfig) -> None:
    """Load, listen and serve to the end; raises `EdgeSttError` for what keeps it from beginning."""
    notifier = Notifier()
    sockets = inherited_sockets()
    addresses = [Address.parse(uri) for uri in config.wyoming.listen]
    opened: list[Address] = []
    try:
        for address in addresses:  # before the model is loaded: whoever connects meanwhile is answered afterwards
            sockets += address.listen()
            opened.append(address)
        notifier.status("loading the model")
        recogniser = Recogniser(config)
        for sock in sockets:
            logger.info("listening on %s", _name(sock))
        asyncio.run(_serve(config, recogniser, notifier, sockets))
    finally:
        for sock in sockets:
            sock.close()
        for address in opened:
            address.clean_up()


async def _serve(config: ServeConfig, recogniser: Recogniser, notifier: Notifier, sockets: list[socket.socket]) -> None:
    await Server(config, recogniser, notifier).run(sockets)


def _name(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix://{os.fsdecode(name)}"
    return f"tcp://[{name[0]}]:{name[1]}" if ":" in name[0] else f"tcp://{name[0]}:{name[1]}"
