"""All settings of `edge-stt serve`: sections of ``/etc/edge-stt/serve.toml``, each setting a flag as well."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..daemon_config import LogConfig, RecogniserConfig
from ..hotwords import DEFAULT_WEIGHT, MAX_WEIGHT
from ..settings import setting


@dataclass(frozen=True)
class ServedRecogniser(RecogniserConfig):
    """As the daemon's; but what a client sends is speech, and text is wanted while it is said."""

    min_confidence: float = setting(
        0.0, "Utterances below this mean confidence (0 to 1) are left out; above 0, none is shown early.", low=0, high=1
    )


@dataclass(frozen=True)
class WyomingConfig:
    """Where to listen, and what is allowed to clients."""

    listen: tuple[str, ...] = setting((), "Where to listen: tcp://HOST:PORT, unix:///PATH, or several.", "--wyoming")
    streaming: bool = setting(True, "Recognise while audio comes in; else when it ended.")
    max_clients: int = setting(16, "Connections at once; more are refused.", low=1, high=1000)
    idle_timeout: float = setting(
        60.0, "Seconds after which a silent or deaf client is dropped.", low=0.1, high=86_400.0
    )
    longest: float = setting(300.0, "Seconds of audio in one request.", "--longest-request", low=1.0, high=3600.0)
    names_weight: float = setting(
        DEFAULT_WEIGHT, "Hot-word weight of a request's names; 0: none.", low=0, high=MAX_WEIGHT
    )
    terms_weight: float = setting(1.0, "Hot-word weight of its terms; 0: none.", low=0, high=MAX_WEIGHT)
    exit_when_idle: float = setting(0.0, "Seconds without a client after which to end; 0: never.", low=0, high=1e6)


@dataclass(frozen=True)
class ServeConfig:
    """The whole configuration."""

    recogniser: ServedRecogniser = field(default_factory=ServedRecogniser)
    wyoming: WyomingConfig = field(default_factory=WyomingConfig)
    log: LogConfig = field(default_factory=LogConfig)
