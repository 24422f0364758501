"""The parts of the voice daemon put together: from settings to a running loop, and settings read again."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from .audio_keeper import AudioKeeper, RecentAudio
from .daemon_config import DaemonConfig
from .errors import EdgeSttError
from .events import EventStream, ReloadedEvent, Sink
from .listener import Listener, Signals, Utterances
from .metrics import Metrics, MetricsOutput
from .microphone import Microphone
from .model_store import check_active
from .mqtt import MqttSink
from .notify import Notifier, set_up_logging
from .settings import differences
from .sinks import ExecSink, SocketSink, StdoutSink
from .sources import FileSource, Source

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0  # for outputs to deliver what they hold


@dataclass(frozen=True)
class Output:
    """A kind of sink: built when its settings ask for it, and built anew when one of its ``sections`` changed."""

    name: str
    sections: tuple[str, ...]
    build: Callable[[DaemonConfig, Daemon], Sink | None]


def _stdout(config: DaemonConfig, daemon: Daemon) -> Sink | None:
    def gone(trouble: str) -> None:
        daemon.signals.stop = daemon.signals.stop or "standard output was closed"
        if trouble:
            daemon.error = f"cannot write to standard output: {trouble}; write elsewhere, or nothing: --stdout none"

    if config.output.stdout == "none":
        return None
    return StdoutSink(config.output.stdout, gone, daemon.patient)


def _socket(config: DaemonConfig, daemon: Daemon) -> Sink | None:
    return SocketSink(config.output.socket) if config.output.socket else None


def _exec(config: DaemonConfig, daemon: Daemon) -> Sink | None:
    return ExecSink(config.exec, daemon.patient) if config.exec.command else None


def _keeper(config: DaemonConfig, daemon: Daemon) -> Sink | None:
    if not config.output.save_audio:
        daemon.utterances.recent = None
        return None
    recent = daemon.utterances.recent = RecentAudio(config.endpoint.resolve().longest + 10.0)
    return AudioKeeper(config.output.save_audio, config.output.keep_audio, recent)


def _mqtt(config: DaemonConfig, daemon: Daemon) -> Sink | None:
    return MqttSink(config.mqtt) if config.mqtt.host else None


OUTPUTS = (
    Output("stdout", ("output.stdout",), _stdout),
    Output("socket", ("output.socket",), _socket),
    Output("exec", ("exec",), _exec),
    Output("mqtt", ("mqtt",), _mqtt),
    Output("save-audio", ("output.save_audio", "output.keep_audio", "endpoint"), _keeper),
)


def try_out(config: DaemonConfig) -> None:
    """Load what a daemon would, and open nothing; raises `EdgeSttError` for what would keep it from beginning."""
    check_active(config.models, config.recogniser.model)
    Utterances(lambda event: None, Metrics()).use(config.recogniser.load_options().load(), config)
    if config.mqtt.host:
        MqttSink(config.mqtt).prepare()


class Daemon:
    """Everything that runs. ``reread`` gives the settings again, raising `EdgeSttError` when they are not good."""

    def __init__(self, config: DaemonConfig, source: Source | None, reread: Callable[[], DaemonConfig]) -> None:
        """Without a ``source``, the microphone."""
        self.config, self._reread = config, reread
        self.signals, self.metrics, self.notifier = Signals(), Metrics(), Notifier()
        self.events = EventStream()
        self.utterances = Utterances(self.events.publish, self.metrics)
        self._given_source = source is not None
        source = Microphone(config.microphone) if source is None else source
        self.listener = Listener(
            source, self.events, self.utterances, self.metrics, self.notifier, self.signals, self.reload
        )
        self._sinks: dict[str, Sink] = {}
        self._retired: list[ExecSink] = []  # that may still run a command of the settings before
        self._metrics_output = MetricsOutput(config.metrics, self.metrics, self._lost_events)
        self.error = ""  # of standard output, from the sink's thread

    def run(self) -> str:
        """Load, open, listen until the end; returns what went wrong with the source or the output, if anything did.

        Raises `EdgeSttError` for what keeps it from beginning.
        """
        with _handlers({signal.SIGHUP: self._hang_up}):  # at any time: by itself it would end the process
            self.notifier.status("loading the model")
            check_active(self.config.models, self.config.recogniser.model)
            self.utterances.use(self.config.recogniser.load_options().load(), self.config)
            with _handlers(dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._stop)):
                try:
                    for output in OUTPUTS:
                        self._open(output)
                    self._metrics_output.open()
                    self.listener.source.open()
                    self.listener.run()
                finally:
                    self.listener.source.close()
                    self.events.close(CLOSE_SECONDS)
                    for sink in self._retired:
                        sink.close(0.0)
                    self._metrics_output.close()
        return self.listener.error or self.error

    def patient(self) -> bool:
        """Whether outputs may take their time: a file waits, until somebody asks for the end."""
        return isinstance(self.listener.source, FileSource) and not self.signals.stop

    def _hang_up(self, number: int, _: FrameType | None) -> None:
        self.signals.reload = True

    def _stop(self, number: int, _: FrameType | None) -> None:
        """Finish what was said and end; a second such signal ends the program at once."""
        self.signals.stop = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)

    def reload(self) -> None:
        """Read the settings again and change what has changed; with bad ones all stays as it is.

        An output that could not be opened is tried again.
        """
        self.notifier.reloading()
        try:
            config = self._reread()
            check_active(config.models, config.recogniser.model)
            self.utterances.use(config.recogniser.load_options().load(), config)
        except EdgeSttError as error:
            logger.error("the settings stay as they were: %s", error)
            self.notifier.ready()
            return
        gc.collect()  # the model before: its parts know each other, and would stay until the collector comes by
        changed, self.config = differences(self.config, config), config
        set_up_logging(config.log.level)
        for output in OUTPUTS:
            if output.name not in self._sinks or _touches(changed, output.sections):
                self._replace(output)
        if _touches(changed, ("metrics",)) or self._metrics_output.deleted:
            self._guarded(self._reopen_metrics)
        if _touches(changed, ("microphone",)) and not self._given_source:
            self.listener.source.close()
            self.listener.source = Microphone(config.microphone)
            self._guarded(self.listener.source.open)
        self.metrics.reloads += 1
        logger.info("settings read again; changed: %s", ", ".join(changed) or "nothing")
        self.events.publish(ReloadedEvent(changed=changed))
        self.notifier.ready()

    def _open(self, output: Output) -> None:
        sink = output.build(self.config, self)
        if sink is not None:
            self.events.add(sink)
            self._sinks[output.name] = sink

    def _replace(self, output: Output) -> None:
        sink = self._sinks.pop(output.name, None)
        if sink is not None:
            self.events.sinks.remove(sink)
            self._retire(sink)
        self._guarded(lambda: self._open(output))

    def _retire(self, sink: Sink) -> None:
        """Close a sink; commands that run have the time that they were promised, which nobody waits for."""
        if isinstance(sink, ExecSink):
            self._retired = [old for old in self._retired if old.busy] + [sink]
            threading.Thread(target=sink.close, args=(sink.config.timeout,), name="retired", daemon=True).start()
        else:
            sink.close(1.0)

    def _reopen_metrics(self) -> None:
        self._metrics_output.close()
        self._metrics_output = MetricsOutput(self.config.metrics, self.metrics, self._lost_events)
        self._metrics_output.open()

    def _lost_events(self) -> int:
        return sum(getattr(sink, "lost", 0) for sink in self.events.sinks)

    @staticmethod
    def _guarded(action: Callable[[], None]) -> None:
        """A running daemon goes on without what cannot be opened."""
        try:
            action()
        except EdgeSttError as error:
            logger.error("%s", error)


def _touches(changed: tuple[str, ...], sections: tuple[str, ...]) -> bool:
    return any(name == section or name.startswith(section + ".") for name in changed for section in sections)


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """While entered, these handle signals."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
