"""Sinks of the voice daemon: standard output, a Unix socket for any number of clients, a command for each final."""

from __future__ import annotations

import errno
import logging
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .errors import EdgeSttError
from .events import Event, FinalEvent, ListeningEvent, ReloadedEvent, WaitingEvent
from .settings import setting
from .unix_socket import listen_on, remove

logger = logging.getLogger(__name__)

QUEUE_EVENTS = 1_000  # events that may wait for a slow sink: minutes of speech
PATIENCE_SECONDS = 0.25  # between looks whether a patient sink is still to be waited for


def offer(events: queue.Queue[Event | None], event: Event, patient: Callable[[], bool]) -> bool:
    """Queue an event, and wait for a place as long as ``patient`` says so; whether there was one."""
    while patient():
        try:
            events.put(event, timeout=PATIENCE_SECONDS)
            return True
        except queue.Full:
            pass
    try:
        events.put_nowait(event)
    except queue.Full:
        return False
    return True


class QueuedSink:
    """A sink with a thread of its own: `accept` puts events in a bounded queue, `deliver` takes them out.

    Subclasses write `deliver`, which may wait, and `setup` and `teardown`, which run in the same thread before the
    first and after the last event. A full queue loses events, partials first: they are counted in ``lost``. Who is
    `patient` waits instead. The thread sleeps until there is an event, but where a subclass has an `idle` of its own.
    """

    name = "queued"

    def __init__(self, size: int = QUEUE_EVENTS) -> None:
        self.lost = 0
        self._queue: queue.Queue[Event | None] = queue.Queue(size)  # None: wake up and end
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=f"sink-{self.name}", daemon=True)
        self._thread.start()

    def accept(self, event: Event) -> None:
        """Queue an event; the last tenth of the queue is for finals."""
        kept_free = not isinstance(event, FinalEvent) and self._queue.qsize() >= 0.9 * self._queue.maxsize
        if (kept_free and not self.patient()) or not offer(self._queue, event, self.patient):
            self.lost += 1

    def close(self, timeout: float) -> None:
        """Wait until the queue is empty: as long as the sink is `patient`, and then for ``timeout`` seconds."""
        self.stop()
        thread = self._thread  # another thread may close it too
        if thread is not None:
            while self.patient() and thread.is_alive():
                thread.join(PATIENCE_SECONDS)
            thread.join(timeout)
            self._thread = None

    def stop(self) -> None:
        """End when nothing is left to deliver, without waiting for that."""
        self._stopping.set()
        with suppress(queue.Full):  # then the thread is at work, and looks whether to stop before it sleeps
            self._queue.put_nowait(None)

    @property
    def running(self) -> bool:
        """Whether its thread has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def patient(self) -> bool:
        """Whether nothing is to be lost, however long it takes."""
        return False

    @property
    def stopping(self) -> bool:
        """Whether `close` was called: what waits for something else should give up soon."""
        return self._stopping.is_set()

    def setup(self) -> None:
        """Before the first event, in the sink's thread."""

    def deliver(self, event: Event) -> None:
        """Carry one event out; may wait. What it raises is logged, and the event lost."""
        raise NotImplementedError

    def pause(self) -> float | None:
        """Seconds between calls of `idle`; None where it has nothing to do."""
        return None if type(self).idle is QueuedSink.idle else 0.25

    def idle(self) -> None:
        """Called every `pause` while there is nothing to deliver."""

    def next(self) -> Event | None:
        """Wait for an event; None is the end. Raises `queue.Empty` where it is time for `idle`, or to stop."""
        return self._queue.get(timeout=0.0 if self.stopping else self.pause())

    def teardown(self) -> None:
        """After the last event, in the sink's thread."""

    def _run(self) -> None:
        last = ""
        try:
            self.setup()
            while True:
                try:
                    event = self.next()
                except queue.Empty:
                    if self.stopping:
                        break
                    self.idle()
                    continue
                if event is None:
                    break
                try:
                    self.deliver(event)
                except Exception as error:
                    self.lost += 1
                    said = str(error) if isinstance(error, EdgeSttError) else f"{type(error).__name__}: {error}"
                    if said != last:
                        logger.error("%s: %s", self.name, said)
                        last = said
                    time.sleep(0.01)
        finally:
            self.teardown()


class StdoutSink(QueuedSink):
    """Events on standard output: ``json``, one line each; or ``text``, each final's words on a line."""

    name = "standard output"

    def __init__(
        self,
        form: str,
        gone: Callable[[str], None] = lambda trouble: None,
        patient: Callable[[], bool] = lambda: False,
    ) -> None:
        """``gone`` is called once when no more can be written, with the reason, empty where the reader went away.

        While ``patient`` says so a slow reader is waited for: for audio from a file, which waits too.
        """
        super().__init__()
        self._json, self._gone, self._patient, self._broken = form == "json", gone, patient, False

    def open(self) -> None:
        """Start the thread; raises `EdgeSttError` where there is no standard output."""
        if sys.stdout is None:
            raise EdgeSttError("standard output is closed; --stdout none writes nothing there")
        super().open()

    def patient(self) -> bool:
        """As it was told."""
        return self._patient()

    def accept(self, event: Event) -> None:
        """As text only finals are of interest."""
        if self._json or isinstance(event, FinalEvent):
            super().accept(event)

    def deliver(self, event: Event) -> None:
        """Write a line, at once."""
        if self._broken:
            return
        line = event.to_json() if self._json else getattr(event, "text", "")
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError as error:
            self._broken = True
            with suppress(OSError):  # what is left in the buffer must not fail again when Python exits
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._gone("" if isinstance(error, BrokenPipeError) else error.strerror or str(error))


@dataclass(frozen=True)
class ExecConfig:
    """The command that is run for each final."""

    command: tuple[str, ...] = setting((), "Command run for each final, the event on its standard input.", "--exec")
    timeout: float = setting(30.0, "Seconds after which it is killed.", "--exec-timeout", low=0.1, high=86_400.0)
    concurrency: int = setting(2, "How many may run at once; more finals wait.", "--exec-concurrency", low=1, high=64)

    def check(self) -> None:
        """Raise `EdgeSttError` when there is no such command."""
        if self.command and shutil.which(self.command[0]) is None:
            raise EdgeSttError(f"exec: {self.command[0]!r} is no command that can be run; give its whole path")


class ExecSink:
    """Runs a command for each final: JSON on its standard input, the text in ``EDGE_STT_TEXT`` too. No shell.

    The slots of a phrase are in variables as well: that called ``room`` in ``EDGE_STT_SLOT_ROOM``.

    Its output goes to the daemon's stderr, which under systemd is the journal. After ``timeout`` it is killed, with
    all processes of its group. When too many finals wait, the newest are lost, unless ``patient`` says to wait.
    """

    name = "exec"

    def __init__(self, config: ExecConfig, patient: Callable[[], bool] = lambda: False) -> None:
        self.config, self._patient = config, patient
        self._queue: queue.Queue[Event | None] = queue.Queue(100)
        self._workers = [_ExecWorker(config, i, self._queue) for i in range(config.concurrency)]
        self._lost = 0

    @property
    def lost(self) -> int:
        """Finals for which nothing was run."""
        return self._lost + sum(worker.lost for worker in self._workers)

    @property
    def busy(self) -> bool:
        """Whether a command runs, or may still be begun."""
        return any(worker.running for worker in self._workers)

    def open(self) -> None:
        """Start the workers; raises `EdgeSttError` when there is no such command."""
        self.config.check()
        for worker in self._workers:
            worker.open()

    def accept(self, event: Event) -> None:
        """Queue a final."""
        if isinstance(event, FinalEvent) and not offer(self._queue, event, self._patient):
            self._lost += 1

    def close(self, timeout: float) -> None:
        """Wait for what was accepted to be done; after ``timeout`` kill what runs, and begin nothing more.

        The time begins when patience ends.
        """
        for worker in self._workers:
            worker.stop()
        while self._patient() and self.busy:
            time.sleep(PATIENCE_SECONDS)
        end = time.monotonic() + timeout
        for worker in self._workers:
            worker.close(max(0.0, end - time.monotonic()))
        waiting = sum(event is not None for event in tuple(self._queue.queue))
        if undone := waiting + sum(worker.at_work for worker in self._workers):
            logger.warning("exec: %s: at the end %d runs were killed or not begun", self.config.command[0], undone)
        for worker in self._workers:
            worker.abandon()


class _ExecWorker(QueuedSink):
    """One command at a time, from a queue that all workers share."""

    def __init__(self, config: ExecConfig, number: int, shared: queue.Queue[Event | None]) -> None:
        super().__init__()
        self.name = f"exec {number}"
        self.config, self._queue = config, shared
        self._running: subprocess.Popen[bytes] | None = None
        self._abandoned = threading.Event()

    @property
    def at_work(self) -> bool:
        """Whether a command runs."""
        return self._running is not None

    def abandon(self) -> None:
        """Kill what runs, and count as lost what was to run after it."""
        self._abandoned.set()
        self.kill()

    def deliver(self, event: Event) -> None:
        """Run the command to its end, or to its time's."""
        if self._abandoned.is_set():
            self.lost += 1
            return
        command = self.config.command
        slots = getattr(event, "slots", {}).items()
        named = {f"EDGE_STT_SLOT_{name.upper().replace('-', '_')}": str(value) for name, value in slots}
        environment = {**os.environ, **named, "EDGE_STT_TEXT": getattr(event, "text", "")}
        environment.pop("NOTIFY_SOCKET", None)  # it is not for a child to speak for the daemon
        try:
            process = self._running = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=2, start_new_session=True, env=environment
            )
        except OSError as error:
            hint = "; the first line of a script says what runs it: #!/bin/sh" if error.errno == errno.ENOEXEC else ""
            raise EdgeSttError(f"{command[0]} cannot be run: {error.strerror}{hint}") from error
        if self._abandoned.is_set():  # while it was being started
            self.kill()
        try:
            process.communicate(event.to_json().encode() + b"\n", timeout=self.config.timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            process.communicate()
            self.lost += 1
            logger.warning("exec: %s ran longer than %g s and was killed", command[0], self.config.timeout)
            return
        finally:
            self._running = None
        if process.returncode:
            logger.warning("exec: %s exited with %d", command[0], process.returncode)

    def kill(self) -> None:
        """Kill what runs, with its children."""
        process = self._running
        if process is not None and process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)


CLIENT_BYTES = 1 << 18  # that may wait for a client before it is dropped
MAX_CLIENTS = 64
FULL_SECONDS = 0.25  # until it is tried again to take clients


class SocketSink(QueuedSink):
    """JSON lines for any number of clients of a Unix socket. Who does not read is dropped; what they send is ignored.

    Whoever connects is first told whether the daemon listens or waits for its microphone. The thread sleeps until
    there is an event, or a client does something.
    """

    name = "socket"

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.dropped = 0
        self._server: socket.socket | None = None
        self._full = False  # the system would give no more clients
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._clients: dict[socket.socket, bytearray] = {}  # and what waits to be sent to them
        self._state = b""

    def open(self) -> None:
        """Listen; raises `EdgeSttError` when the path is in use."""
        self._server = listen_on(self.path)
        self._server.setblocking(False)
        super().open()

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    def deliver(self, event: Event) -> None:
        """Send to all, whoever is ready."""
        self.idle()
        line = event.to_json().encode() + b"\n"
        if isinstance(event, ListeningEvent | WaitingEvent):
            self._state = line
        for client in list(self._clients):
            self._clients[client].extend(line)
            self._send(client)
        if isinstance(event, ReloadedEvent) and not os.path.lexists(self.path):
            self._listen_again()

    def accept(self, event: Event) -> None:
        """Queue an event, and wake the thread."""
        super().accept(event)
        self._wake()

    def stop(self) -> None:
        """The same for the end."""
        super().stop()
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # full: then it is awake; closed: then it has ended
            self._waker.send(b".")

    def next(self) -> Event | None:
        """Wait for an event, or for a client that comes, goes, or takes what waits for it."""
        assert self._server is not None
        if self._queue.empty() and not self.stopping:
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            if not self._full:
                poll.register(self._server, select.POLLIN)
            for client, waiting in self._clients.items():
                poll.register(client, select.POLLIN | (select.POLLOUT if waiting else 0))
            poll.poll(1000.0 * FULL_SECONDS if self._full else None)
        with suppress(BlockingIOError):
            self._woken.recv(65_536)
        return self._queue.get_nowait()

    def idle(self) -> None:
        """Take new clients, send on to slow ones, let go of those that went."""
        self._welcome()
        for client in list(self._clients):
            try:
                while client.recv(65_536):
                    pass
                self._drop(client)
            except BlockingIOError:
                self._send(client)
            except OSError:
                self._drop(client)

    def teardown(self) -> None:
        """Close everything and remove the file."""
        for client in list(self._clients):
            self._drop(client)
        if self._server is not None:
            self._server.close()
            remove(self.path)
        self._woken.close()
        self._waker.close()

    def _listen_again(self) -> None:
        """Put back the socket's file, which somebody deleted; who is connected stays."""
        server = listen_on(self.path)
        server.setblocking(False)
        if self._server is not None:
            self._server.close()
        self._server = server

    def _welcome(self) -> None:
        assert self._server is not None
        self._full = False
        try:
            while True:
                client, _ = self._server.accept()
                if len(self._clients) >= MAX_CLIENTS:
                    client.close()
                    continue
                client.setblocking(False)
                self._clients[client] = bytearray(self._state)
        except BlockingIOError:
            pass
        except OSError:  # too many files are open: who waits at the door would wake this thread again and again
            self._full = True

    def _send(self, client: socket.socket) -> None:
        waiting = self._clients.get(client)
        if not waiting:
            return
        try:
            sent = client.send(waiting)
            del waiting[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if len(waiting) > CLIENT_BYTES:
            self.dropped += 1
            logger.warning("socket: a client that does not read was dropped")
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
        client.close()
