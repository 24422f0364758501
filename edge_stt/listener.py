"""The voice daemon's loop: audio from a source through the recogniser to events, for months.

One thread recognises, and only that thread feeds systemd's watchdog: if recognition hangs, the daemon is restarted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .audio import SAMPLE_RATE
from .audio_keeper import RecentAudio
from .daemon_config import DaemonConfig
from .events import (
    DeviceLostEvent,
    Event,
    EventStream,
    FinalEvent,
    ListeningEvent,
    NothingEvent,
    OverflowEvent,
    PartialEvent,
    SpeechEvent,
    StoppedEvent,
    WaitingEvent,
    WakeEvent,
)
from .features import Floats
from .metrics import Metrics
from .notify import Notifier
from .recogniser import Transcriber
from .sources import End, Gap, Item, Lost, Opened, Samples, Source, Waiting
from .streaming import Final, Partial, StreamingTranscriber
from .wake import WakefulStream, Woken

logger = logging.getLogger(__name__)

PIECE = SAMPLE_RATE // 5  # samples recognised between two looks at the watchdog; a microphone's block is less
ASLEEP_PIECE = SAMPLE_RATE // 2  # the same while the network sleeps
WAIT_SECONDS = 0.4
ASLEEP_SECONDS = 0.3  # of audio taken at once while the network sleeps: half the wake-ups, and half their cost
TOLERATED_GAP = 0.5  # seconds of lost audio that an utterance survives
LONG_AGO = 300.0  # seconds of audio; no utterance is as long
REPORT_SECONDS = 1.0  # overflows are told of once in this time
RELOAD_WAITS = "the settings are read again when this utterance has ended"


@dataclass
class Signals:
    """What was asked of the loop, from signal handlers or other threads."""

    stop: str = ""
    reload: bool = False


class Utterances:
    """The recogniser with what the daemon adds: one clock over all gaps, numbers for utterances, counters, events."""

    def __init__(self, publish: Callable[[Event], None], metrics: Metrics) -> None:
        self._publish, self._metrics = publish, metrics
        self._stream: StreamingTranscriber | WakefulStream | None = None
        self._min_confidence = 0.0
        self._base = 0.0  # daemon's seconds at which the recogniser's began
        self._heard = 0  # samples since
        self._gaps: list[tuple[float, float]] = []  # recogniser's seconds at which audio was lost, and how much
        self._number = 0
        self._begun = False
        self.recent: RecentAudio | None = None

    @property
    def clock(self) -> float:
        """Seconds of audio since the daemon began, those that were lost included."""
        return self._daemon_time(self._heard / SAMPLE_RATE)

    def _daemon_time(self, seconds: float) -> float:
        """The daemon's time at a time of the recogniser's, which does not know of lost audio."""
        return self._base + seconds + sum(lost for at, lost in self._gaps if at <= seconds)

    @property
    def asleep(self) -> bool:
        """Whether nothing is louder than the noise: then it makes no difference to hear a little later."""
        return self._stream is not None and self._stream.asleep

    @property
    def speaking(self) -> bool:
        """Whether somebody is in the middle of an utterance."""
        return self._begun

    def use(self, transcriber: Transcriber, config: DaemonConfig) -> None:
        """Recognise with this from now on, when what was going on has been ended.

        Raises `EdgeSttError`, with nothing changed, for a wake phrase that cannot be heard.
        """
        endpoint, gate = config.endpoint.resolve(), config.gate if config.gate.enabled else None
        stream: StreamingTranscriber | WakefulStream = (
            WakefulStream(transcriber, config.wake, endpoint, gate)
            if config.wake.phrase
            else StreamingTranscriber(transcriber, endpoint, gate)
        )
        self.end("end")
        self._stream = stream
        self._min_confidence = config.recogniser.min_confidence

    def accept(self, samples: Floats) -> None:
        """Recognise further samples, float32 ``[n]`` at 16 kHz."""
        assert self._stream is not None
        if self.recent is not None:
            self.recent.add(self.clock, samples)
        began = time.perf_counter()
        results: Sequence[Partial | Final | Woken] = self._stream.accept_audio(samples)
        compute = time.perf_counter() - began
        self._heard += len(samples)
        seconds = len(samples) / SAMPLE_RATE
        self._metrics.audio_seconds += seconds
        self._metrics.gated_seconds += seconds if self._stream.asleep else 0.0
        self._metrics.compute_seconds += compute
        self._tell(results, compute)

    def end(self, reason: str) -> None:
        """End the utterance here, and begin to hear anew."""
        if self._stream is None:
            return
        began = time.perf_counter()
        results = self._stream.finish()
        self._tell(results, time.perf_counter() - began, reason)
        self._base, self._heard, self._gaps = self.clock, 0, []

    def skip(self, seconds: float) -> None:
        """Audio was lost: the clock goes on, and an utterance too if it was little."""
        if seconds >= TOLERATED_GAP:
            self.end("gap")
        now = self._heard / SAMPLE_RATE
        while self._gaps and self._gaps[0][0] < now - LONG_AGO:
            self._base += self._gaps.pop(0)[1]
        self._gaps.append((now, seconds))

    def _tell(self, results: Sequence[Partial | Final | Woken], compute: float, reason: str = "") -> None:
        assert self._stream is not None
        for result in results:
            if isinstance(result, Woken):
                start, end = (round(self._daemon_time(time), 3) for time in (result.start, result.end))
                self._publish(WakeEvent(text=result.text, start=start, end=end, score=result.score))
                continue
            self._begin(result.start)
            if isinstance(result, Partial):
                stable = " ".join(result.text.split()[: result.stable])
                start = round(self._daemon_time(result.start), 3)
                self._publish(PartialEvent(utterance=self._number, text=result.text, stable=stable, start=start))
            else:
                self._finish(result, compute, reason)
        if self._stream.speaking:
            self._begin(self._stream.utterance_start)
        elif self._begun:
            self._reject()

    def _begin(self, start: float) -> None:
        if not self._begun:
            self._begun = True
            self._number += 1
            self._publish(SpeechEvent(utterance=self._number, start=round(self._daemon_time(start), 3)))

    def _reject(self) -> None:
        self._begun = False
        self._metrics.rejected += 1
        self._publish(NothingEvent(utterance=self._number))

    def _finish(self, final: Final, compute: float, reason: str) -> None:
        if final.score is None and final.confidence < self._min_confidence:  # phrases have a threshold of their own
            self._reject()
            return
        self._begun = False
        at = self._daemon_time
        words = tuple(
            type(word)(word.text, round(at(word.start), 3), round(at(word.end), 3), word.confidence)
            for word in final.words
        )
        event = FinalEvent(
            utterance=self._number,
            text=final.text,
            start=round(at(final.start), 3),
            end=round(at(final.end), 3),
            confidence=round(final.confidence, 4),
            words=words,
            reason=reason or final.reason,
            delay=round(max(0.0, final.heard - final.words[-1].end), 3),
            compute=round(compute, 4),
            score=final.score,
            slots=dict(final.slots or {}),
        )
        self._metrics.utterances += 1
        self._metrics.words += len(words)
        self._metrics.observe_latency(compute)
        self._publish(event)


class Listener:
    """Runs until a signal or the end of the audio. ``reload`` is called between utterances when that was asked for."""

    def __init__(
        self,
        source: Source,
        events: EventStream,
        utterances: Utterances,
        metrics: Metrics,
        notifier: Notifier,
        signals: Signals,
        reload: Callable[[], None] = lambda: None,
    ) -> None:
        self.source = source
        self._events, self._utterances, self._metrics = events, utterances, metrics
        self._notifier, self._signals, self._reload = notifier, signals, reload
        self._ready = False
        self._overflow = 0.0
        self._reported = -1e9
        self._waiting = ""
        self._status = ""  # what `Notifier.status` says of the microphone
        self.error = ""

    def run(self) -> None:
        """The loop. At its end the last utterance is finished and `StoppedEvent` published; ``error`` says why."""
        reason = ""
        while not reason:
            self._notifier.alive()
            self._reload_between_utterances()
            for item in self.source.read(WAIT_SECONDS, ASLEEP_SECONDS if self._utterances.asleep else 0.0):
                if isinstance(item, End):
                    reason, self.error = "end", item.error
                    break
                self._take(item)
            self._report(False)
            reason = self._signals.stop or reason
        self._notifier.stopping()
        self._utterances.end("end")
        self._report(True)
        self._events.publish(StoppedEvent(reason=reason))

    def _reload_between_utterances(self) -> None:
        """Do it if it was asked for and nobody speaks; while somebody does, the status says that it waits."""
        if not self._signals.reload:
            return
        if self._utterances.speaking:
            self._notifier.status(RELOAD_WAITS)
            return
        self._signals.reload = False
        self._reload()
        if self._status:
            self._notifier.status(self._status)

    def _tell_status(self, text: str) -> None:
        self._status = text
        self._notifier.status(text)

    def _take(self, item: Item) -> None:
        if isinstance(item, Samples):
            rest = item.samples
            while len(rest):
                size = ASLEEP_PIECE if self._utterances.asleep else PIECE
                piece, rest = rest[:size], rest[size:]
                self._utterances.accept(piece)
                self._notifier.alive()
                # Here too: who speaks without a pause may have begun the next utterance before all is taken.
                self._reload_between_utterances()
        elif isinstance(item, Gap):
            self._metrics.overflows += 1
            self._metrics.lost_seconds += item.seconds
            self._overflow += max(item.seconds, 1e-6)
            self._utterances.skip(item.seconds)
        elif isinstance(item, Opened):
            self._opened(item)
        elif isinstance(item, Lost):
            self._utterances.end("gap")
            self._metrics.device_losses += 1
            self._metrics.listening = False
            logger.warning("lost the microphone %s: %s", item.device, item.reason)
            self._events.publish(DeviceLostEvent(device=item.device, reason=item.reason))
        elif isinstance(item, Waiting):
            self._wait(item)

    def _opened(self, item: Opened) -> None:
        self._metrics.listening, self._waiting = True, ""
        channels = "1 channel" if item.channels == 1 else f"{item.channels} channels"
        logger.info("listening to %s (%d Hz, %s)", item.device, item.rate, channels)
        self._tell_status(f"listening to {item.device}")
        self._events.publish(ListeningEvent(device=item.device, rate=item.rate, channels=item.channels))
        self._be_ready()

    def _wait(self, item: Waiting) -> None:
        self._metrics.listening = False
        if item.reason != self._waiting:  # once, not at every try
            self._waiting = item.reason
            logger.warning("waiting for the microphone %s: %s", item.device, item.reason)
            self._events.publish(WaitingEvent(device=item.device, reason=item.reason, retry=item.retry))
        self._tell_status(f"waiting for microphone {item.device}: {item.reason}")
        self._be_ready()

    def _be_ready(self) -> None:
        """Also without a microphone: the status tells, and a unit that waits for one must not time out."""
        if not self._ready:
            self._ready = True
            self._notifier.ready()

    def _report(self, now: bool) -> None:
        """Tell of lost audio, not more often than once a second."""
        if self._overflow and (now or time.monotonic() - self._reported >= REPORT_SECONDS):
            seconds, self._overflow = round(self._overflow, 3), 0.0
            total = round(self._metrics.lost_seconds, 3)
            self._reported = time.monotonic()
            logger.warning("lost %.2f s of audio, %.2f s in all: recognition or the system is too slow", seconds, total)
            self._events.publish(OverflowEvent(seconds=seconds, total=total))
