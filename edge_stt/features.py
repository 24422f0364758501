"""The front end: 16 kHz samples to log-mel frames, whole files and streams giving the same numbers.

Framing has no padding: frame ``t`` covers samples ``[t * hop_length, t * hop_length + window_length)``, so a stream can
produce it as soon as those samples are there. Training imports this very module, so training and running cannot differ.

Shapes: audio is float32 ``[samples]`` in -1..1; log-mel is float32 ``[frames, n_mels]``, natural logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

BLOCK_FRAMES = 132  # frames transformed at once: large enough to pay, small enough to stay in the L2 cache
ROWS_AT_ONCE = 12  # of a matrix product: 12 * 257 * 80 is below the 2**18 from which OpenBLAS uses threads


@dataclass(frozen=True)
class FrontEndConfig:
    """What the front end computes. Stored in every model package; a model runs only with the values it was trained on.

    Lengths are in samples, frequencies in Hz. ``log_floor`` is added to the mel power before the logarithm: just above
    the quantisation noise of 16-bit audio, so that digital silence and a quiet room look alike.
    """

    sample_rate: int = 16_000
    window_length: int = 400
    hop_length: int = 160
    n_fft: int = 512
    n_mels: int = 80
    f_min: float = 20.0
    f_max: float = 7_600.0
    log_floor: float = 1e-6

    @property
    def frames_per_second(self) -> float:
        """Frames a second of audio gives."""
        return self.sample_rate / self.hop_length

    def frames_in(self, samples: int) -> int:
        """Number of whole frames in ``samples`` samples."""
        return max(0, 1 + (samples - self.window_length) // self.hop_length)


@lru_cache(maxsize=8)
def mel_filters(config: FrontEndConfig) -> Floats:
    """Triangular filters on the HTK mel scale, float32 ``[n_fft // 2 + 1, n_mels]``, peak 1, DC excluded.

    Source: S. Young et al., The HTK Book, section 5.4 (mel = 1127 ln(1 + f / 700)).
    """

    def mel(frequency: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return 1127.0 * np.log1p(frequency / 700.0)

    bins = mel(np.linspace(0.0, config.sample_rate / 2, config.n_fft // 2 + 1))[:, None]
    low, high = mel(np.array([config.f_min, config.f_max]))
    edges = np.linspace(low, high, config.n_mels + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    filters = np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)).clip(min=0.0)
    filters[0] = 0.0
    return filters.astype(np.float32)


@lru_cache(maxsize=8)
def _window(config: FrontEndConfig) -> Floats:
    """Periodic Hann window, as spectral analysis uses it."""
    n = np.arange(config.window_length)
    return (0.5 - 0.5 * np.cos(2.0 * np.pi * n / config.window_length)).astype(np.float32)


def log_mel(samples: Floats, config: FrontEndConfig) -> Floats:
    """Log-mel spectrogram of ``samples`` (float32 ``[samples]``): float32 ``[frames, n_mels]``, not normalised."""
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    count = config.frames_in(len(samples))
    out = np.empty((count, config.n_mels), dtype=np.float32)
    if count == 0:
        return out
    # A view, as sliding_window_view would give, which takes ten times as long; streams do this for every few frames.
    strides = (config.hop_length * samples.itemsize, samples.itemsize)
    frames = np.ndarray((count, config.window_length), np.float32, samples, strides=strides)
    window, filters = _window(config), mel_filters(config)
    for start in range(0, count, BLOCK_FRAMES):
        block = frames[start : start + BLOCK_FRAMES] * window
        spectrum = np.fft.rfft(block, n=config.n_fft)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)
        np.log(_products(power, filters) + np.float32(config.log_floor), out=out[start : start + len(block)])
    return out


def _products(power: Floats, filters: Floats) -> Floats:
    """``power @ filters``, in pieces so small that OpenBLAS computes them in this thread.

    Its others would wait in a loop for the next product, which on a busy machine took nine tenths of the time.
    """
    if len(power) <= ROWS_AT_ONCE:
        return power @ filters
    whole = len(power) - len(power) % ROWS_AT_ONCE
    pieces = power[:whole].reshape(-1, ROWS_AT_ONCE, power.shape[1]) @ filters
    return np.concatenate([pieces.reshape(whole, filters.shape[1]), power[whole:] @ filters])


class StreamingLogMel:
    """Log-mel of audio that arrives in pieces of any size; the frames equal those of `log_mel` on the whole."""

    def __init__(self, config: FrontEndConfig) -> None:
        self.config = config
        self._pending = np.empty(0, dtype=np.float32)

    def accept(self, samples: Floats) -> Floats:
        """Take float32 ``[n]`` samples, return the frames they complete, float32 ``[frames, n_mels]``."""
        self._pending = np.concatenate([self._pending, samples.astype(np.float32, copy=False)])
        frames = log_mel(self._pending, self.config)
        self._pending = self._pending[len(frames) * self.config.hop_length :]
        return frames

    def reset(self) -> None:
        """Forget the samples that wait for the next frame."""
        self._pending = self._pending[:0]


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and standard deviation of each mel bin over the training set, float32 ``[n_mels]`` each.

    The standard deviation is taken around each utterance's own mean, which is what normalisation subtracts.
    """

    mean: Floats
    std: Floats


@dataclass(frozen=True)
class NormalizationConfig:
    """How the mean that is subtracted comes about.

    The training mean counts as ``prior_frames`` frames heard before the utterance, so that the first frames and very
    short clips have a mean too; the running form forgets what lies further back than about ``memory_frames``. The
    offline form leaves out silent ends: what is more than ``quiet`` nats (mean over the bins) below the loudest
    moments, but for ``margin_frames`` next to the speech. The running form, which does not know what comes, leaves out
    frames below ``silent`` nats, which is digital silence and no microphone's.
    """

    prior_frames: int = 50
    memory_frames: int = 1_000
    quiet: float = 5.0
    margin_frames: int = 30
    silent: float = -11.8


def normalise_utterance(
    frames: Floats, statistics: FeatureStatistics, config: NormalizationConfig | None = None
) -> Floats:
    """Offline form: one mean for the whole utterance. float32 ``[frames, n_mels]`` in and out."""
    config = config or NormalizationConfig()
    heard = without_silent_ends(frames, config)
    total = heard.sum(axis=0, dtype=np.float64) + config.prior_frames * statistics.mean.astype(np.float64)
    mean = (total / max(1, config.prior_frames + len(heard))).astype(np.float32)
    return (frames - mean) / statistics.std


LOUD_FRAMES = 30  # as many are as loud as "the loudest moments" or louder: a click is no speech


def without_silent_ends(frames: Floats, config: NormalizationConfig) -> Floats:
    """The log-mel frames from shortly before the first loud one to shortly after the last: a view."""
    if not len(frames):
        return frames
    level = frames.mean(axis=1)
    rank = len(level) - min(LOUD_FRAMES, len(level))
    loud = np.flatnonzero(level >= np.partition(level, rank)[rank] - config.quiet)
    return frames[max(0, loud[0] - config.margin_frames) : loud[-1] + 1 + config.margin_frames]


ONSET_RISE = 3.0  # nats by which speech is louder than all that was heard before it in the utterance
ONSET_FRAMES = 5  # that are all as loud: a click is no speech
ONSET_LAG = 20  # frames that speech takes at most to become as loud
LEADING_FRAMES = 50  # that count of what was heard before speech: clips that were trimmed have fewer


class RunningNormaliser:
    """Causal form: frame ``t`` is normalised by the mean of the frames up to ``t``, whatever the chunk sizes.

    ``mean_t = mean_(t-1) + (x_t - mean_(t-1)) / min(prior_frames + t + 1, memory_frames)``: a plain average at first,
    an exponential one later. Digital silence is not counted, and leaves the mean as it is. Noise that is heard before
    the speech is, but would come to be all of the mean: once speech is heard, at the first rise of the level by
    `ONSET_RISE`, what was heard before counts as `LEADING_FRAMES` frames and no more.
    """

    BLOCK = 64  # the closed form below divides by a product of decays, which must not underflow

    def __init__(self, statistics: FeatureStatistics, config: NormalizationConfig | None = None) -> None:
        self.statistics = statistics
        self.config = config or NormalizationConfig()
        self.reset()

    def reset(self) -> None:
        """Start a new utterance: the mean is the training mean again."""
        self._mean = self.statistics.mean.astype(np.float64)
        self._seen = self.config.prior_frames
        self._leading = True  # until the onset of speech
        self._levels = np.full(ONSET_FRAMES - 1 + ONSET_LAG, np.nan)  # of the newest frames that were counted
        self._loudest = np.nan  # level that lasted, before those

    def __call__(self, frames: Floats) -> Floats:
        """Normalise the next float32 ``[frames, n_mels]`` of the stream."""
        out = np.empty_like(frames)
        start = 0
        while start < len(frames):
            block = frames[start : start + self.BLOCK]
            level = block.mean(axis=1)
            counted = level >= self.config.silent
            onset = self._onset(level[counted]) if self._leading else None
            if onset is not None:
                before = int(np.flatnonzero(counted)[onset])
                block, counted = block[:before], counted[:before]
            if len(block):
                out[start : start + len(block)] = (block - self._means(block, counted)) / self.statistics.std
            start += len(block)
            if onset is not None:
                self._count_less()
        return out

    def _onset(self, level: Floats) -> int | None:
        """Index of the first counted frame at which it is known that somebody speaks, given the levels of the next."""
        if not len(level):
            return None
        levels = np.concatenate([self._levels, level])
        lasting = np.lib.stride_tricks.sliding_window_view(levels, ONSET_FRAMES).min(axis=1)
        loudest = np.fmax.accumulate(np.append(self._loudest, lasting[:-ONSET_LAG]))[1:]
        rises = lasting[ONSET_LAG:] > loudest + ONSET_RISE  # false where there was nothing yet, which is nan
        if rises.any():
            return int(rises.argmax())
        self._levels, self._loudest = levels[len(level) :], loudest[-1]
        return None

    def _count_less(self) -> None:
        """Speech begins: what was heard so far counts as `LEADING_FRAMES` at most."""
        self._leading = False
        prior = self.config.prior_frames
        heard = min(self._seen, self.config.memory_frames) - prior
        if heard > LEADING_FRAMES:
            trained = self.statistics.mean.astype(np.float64)
            share = LEADING_FRAMES / (prior + LEADING_FRAMES) * (prior + heard) / heard
            self._mean = trained + share * (self._mean - trained)
            self._seen = prior + LEADING_FRAMES

    def _means(self, block: Floats, counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """The mean at each of the next frames."""
        counts = np.minimum(self._seen + np.cumsum(counted), max(2, self.config.memory_frames))
        # A first count of 1 replaces the mean outright: its decay is 0 and would end the product, so start there.
        if counted.any() and counts[first := int(counted.argmax())] == 1:
            self._mean, counts[first] = block[first].astype(np.float64), 2
        weights = (counted / np.maximum(counts, 1))[:, None]
        decay = np.cumprod(1.0 - weights, axis=0)
        means: npt.NDArray[np.float64] = decay * (self._mean + np.cumsum(weights / decay * block, axis=0))
        self._mean = means[-1]
        self._seen += int(counted.sum())
        return means
