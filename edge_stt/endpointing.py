"""When somebody speaks and when they have ended: an energy gate that learns the noise, and rules for the end.

The gate is cheap (about 25 small sums a second) and decides when the network runs at all; the network's own blanks and
the gate together decide when an utterance is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .features import Floats, FrontEndConfig
from .settings import setting


@dataclass(frozen=True)
class EndpointConfig:
    """When an utterance ends, in seconds: after ``trailing_silence`` without a unit, and at ``longest`` in any case.

    From ``hurry_from`` of ``longest`` on, less and less silence is enough, down to ``shortest_pause``, so that a long
    utterance ends between words rather than in one. Silence ends nothing that is shorter than ``shortest``. After
    ``idle`` without any unit the utterance begins anew, with the last ``kept`` of the audio, lest the first words after
    a long silence meet the end at ``longest``.
    """

    trailing_silence: float = 0.8
    shortest_pause: float = 0.16
    shortest: float = 0.0
    longest: float = 24.0
    hurry_from: float = 0.5
    idle: float = 4.0
    kept: float = 1.0

    def silence_needed(self, length: float) -> float:
        """Seconds without a unit that end an utterance which is ``length`` seconds long."""
        if length < self.shortest:
            return float("inf")
        late = min(1.0, max(0.0, (length / self.longest - self.hurry_from) / (1.0 - self.hurry_from)))
        return self.trailing_silence + late * min(0.0, self.shortest_pause - self.trailing_silence)


PRESETS = {
    "aggressive": EndpointConfig(trailing_silence=0.6, longest=20.0, hurry_from=0.75),
    "default": EndpointConfig(trailing_silence=1.1, longest=40.0, hurry_from=0.8),
    "relaxed": EndpointConfig(trailing_silence=1.7, longest=60.0, hurry_from=0.8),
}


@dataclass(frozen=True)
class GateConfig:
    """When sound counts as possible speech. Levels are mean nats of log-mel above the noise, times are in seconds.

    The noise of each mel bin is followed by an expectile: it falls with ``fall`` of the difference each step, and
    rises with ``rise``, or ``rise_in_speech`` while words are heard; so a fan that is turned on is noise after a few
    seconds, and a long sentence is not. The gate opens above ``opens`` and closes after ``hangover`` below ``closes``.
    Utterances begin ``pre_roll`` before the gate opened, so that first words are whole. While words are heard, sound
    below ``softer`` of their level is silence too: a fire that crackles behind the speaker is not more speech.
    """

    opens: float = setting(0.8, "Level above the noise, in nats, that opens the gate.", "--gate-opens", low=0.0)
    closes: float = setting(0.6, "Level above the noise that still counts as sound.", "--gate-closes", low=0.0)
    hangover: float = setting(0.6, "Seconds below that level that close the gate.", low=0.0, high=60.0)
    pre_roll: float = setting(0.6, "Seconds heard before the gate opened that are recognised too.", low=0.0, high=10.0)
    softer: float = setting(0.3, "Part of the speech's level below which is silence.", "--gate-softer", low=0, high=1)
    fall: float = setting(0.25, "How fast the idea of the noise falls, per 40 ms.", "--noise-fall", low=0.0, high=1.0)
    rise: float = setting(0.04, "How fast it rises.", "--noise-rise", low=0.0, high=1.0)
    rise_in_speech: float = setting(0.002, "How fast it rises in speech.", "--noise-rise-in-speech", low=0.0, high=1.0)


STEP = 4  # log-mel frames that are judged together
SMOOTHING = 3  # steps the level is averaged over
SPEECH_DECAY = 0.99  # of the speech's level, a step: halved in three seconds


class EnergyGate:
    """Judges log-mel frames in order, whatever the sizes of the pieces, in steps of `STEP` frames.

    ``open``: speech is possible. ``quiet``: seconds of the newest steps in a row that were silence. The noise
    starts out as that of digital silence: what comes first counts as sound until it has gone on for a while.
    """

    def __init__(self, config: GateConfig, front_end: FrontEndConfig) -> None:
        self.config = config
        self.open = False
        self.level = 0.0
        self.quiet = 0.0
        self._step_seconds = STEP / front_end.frames_per_second
        self._noise = np.full(front_end.n_mels, math.log(front_end.log_floor), np.float32)
        self._rest: list[Floats] = []
        self._waiting = 0
        self._recent = [0.0] * SMOOTHING
        self._below = 0.0  # seconds since the level was last above ``closes``
        self._speech = 0.0  # level of the speech that is heard

    def accept(self, frames: Floats, speaking: bool) -> None:
        """Judge further frames, float32 ``[n, n_mels]``; ``speaking``: the network hears words just now."""
        if not len(frames):
            return
        self._rest.append(frames)
        self._waiting += len(frames)
        if self._waiting < STEP:
            return
        waiting = np.concatenate(self._rest)
        whole = len(waiting) - len(waiting) % STEP
        steps = waiting[:whole].reshape(-1, STEP, waiting.shape[1]).mean(axis=1)
        self._rest, self._waiting = [waiting[whole:].copy()], len(waiting) - whole
        for step in steps:
            self._judge(step, speaking)

    def _judge(self, step: Floats, speaking: bool) -> None:
        config = self.config
        excess = step - self._noise
        above = np.maximum(excess, 0.0)
        self._recent = [*self._recent[1:], float(np.add.reduce(above)) / len(above)]
        self.level = sum(self._recent) / SMOOTHING
        rise = config.rise_in_speech if speaking else config.rise
        excess -= above  # now what is below the noise, else 0
        self._noise += np.float32(rise) * above + np.float32(config.fall) * excess
        self._speech = max(self.level, SPEECH_DECAY * self._speech) if speaking else 0.0
        silent = self.level < max(config.closes, config.softer * self._speech)
        self.quiet = self.quiet + self._step_seconds if silent else 0.0
        self._below = self._below + self._step_seconds if self.level < config.closes else 0.0
        if self._below >= config.hangover - 1e-9:
            self.open = False
        elif self.level >= config.opens:
            self.open = True
