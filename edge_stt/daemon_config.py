"""All settings of `edge-stt listen`: sections of ``/etc/edge-stt/config.toml``, each setting a flag as well."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from .batch import LoadOptions
from .beam_config import MAX_BEAM_WIDTH
from .endpointing import PRESETS, EndpointConfig, GateConfig
from .metrics import MetricsConfig
from .microphone import MicrophoneConfig
from .model_store import ModelsConfig
from .mqtt import MqttConfig
from .settings import ConfigError, setting
from .sinks import ExecConfig
from .wake_config import WakeConfig

SYSTEM_PATH = Path("/etc/edge-stt/config.toml")


def default_path() -> Path | None:
    """The user's own configuration, or else the system's; None where there is neither."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - no error without a home
    for path in (Path(home, "edge-stt", "config.toml"), SYSTEM_PATH):
        if os.access(path, os.F_OK):
            return path
    return None


@dataclass(frozen=True)
class RecogniserConfig:
    """What turns audio into text."""

    model: str = setting("", "Model package; without it, the active one.")
    decoder: str = setting("", "greedy, beam or lexicon; without it, the model's own.")
    phrases: str = setting("", "Grammar of phrases: only these are recognised.")
    beam_width: int | None = setting(None, "Readings followed at once; more are slower.", low=1, high=MAX_BEAM_WIDTH)
    lm_weight: float | None = setting(None, "Weight of the language model.")
    word_insertion_bonus: float | None = setting(None, "Added for each word: more gives more.")
    hotword_file: str = setting("", "File of words to favour: phrase, tab, weight.")
    threads: int = setting(1, "Threads of the TFLite runtime.", low=1, high=64)
    min_confidence: float = setting(0.5, "Utterances below this mean confidence (0 to 1) are left out.", low=0, high=1)

    def load_options(self) -> LoadOptions:
        """For `LoadOptions.load`."""
        return LoadOptions(
            model=self.model or None,
            threads=self.threads,
            decoder=self.decoder or None,
            beam_width=self.beam_width,
            lm_weight=self.lm_weight,
            word_insertion_bonus=self.word_insertion_bonus,
            hotword_file=self.hotword_file or None,
            phrases=self.phrases or None,
        )


@dataclass(frozen=True)
class EndpointSettings:
    """When an utterance ends: a preset, and what is to differ from it."""

    preset: str = setting("default", "How soon an utterance ends.", "--endpoint", choices=tuple(PRESETS))
    trailing_silence: float | None = setting(None, "Seconds of silence that end an utterance.", low=0.1, high=10.0)
    shortest: float | None = setting(None, "Seconds before which silence ends nothing.", low=0.0, high=60.0)
    longest: float | None = setting(None, "Seconds after which an utterance ends in any case.", low=2.0, high=120.0)

    def resolve(self) -> EndpointConfig:
        """The preset with what differs."""
        given = {"trailing_silence": self.trailing_silence, "shortest": self.shortest, "longest": self.longest}
        return replace(PRESETS[self.preset], **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class GateSettings(GateConfig):
    """The energy gate, and whether there is one."""

    enabled: bool = setting(True, "Let the network sleep while nothing is louder than the noise.", "--gate")


@dataclass(frozen=True)
class OutputConfig:
    """Where events go, beside `ExecConfig`."""

    stdout: str = setting("json", "Events on standard output.", choices=("json", "text", "none"))
    socket: str = setting("", "Unix socket on which any number of programs can read the events.")
    save_audio: str = setting("", "Folder for the audio of utterances; without it none is ever written.")
    keep_audio: int = setting(100, "How many of them are kept.", low=1, high=1_000_000)


@dataclass(frozen=True)
class LogConfig:
    """What is said on stderr, or in the journal."""

    level: str = setting("info", "Least level logged.", "--log-level", choices=("debug", "info", "warning", "error"))


@dataclass(frozen=True)
class DaemonConfig:
    """The whole configuration."""

    recogniser: RecogniserConfig = field(default_factory=RecogniserConfig)
    microphone: MicrophoneConfig = field(default_factory=MicrophoneConfig)
    wake: WakeConfig = field(default_factory=WakeConfig)
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    output: OutputConfig = field(default_factory=OutputConfig)
    exec: ExecConfig = field(default_factory=ExecConfig)
    mqtt: MqttConfig = field(default_factory=MqttConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    models: ModelsConfig = field(default_factory=ModelsConfig)
    log: LogConfig = field(default_factory=LogConfig)


def check(config: DaemonConfig) -> None:
    """What no single setting shows; raises `ConfigError`."""
    paths = [p for p in (config.output.socket, config.metrics.socket) if p]
    if len(set(map(os.path.abspath, paths))) < len(paths):
        raise ConfigError("output.socket and metrics.socket are the same path; choose two")
    for path in paths:
        if len(os.fsencode(path)) > 107:  # sockaddr_un
            raise ConfigError(f"{path}: too long for a Unix socket (107 bytes at most)")
    metrics = Path(config.metrics.file)
    if config.metrics.file and metrics.exists() and not metrics.is_file():
        # Written again and again: whoever reads a device or a pipe would not know where one text ends.
        raise ConfigError(f"metrics.file {config.metrics.file} is no regular file; choose another path")
    config.mqtt.check()
    config.exec.check()
    config.wake.check()
    endpoint = config.endpoint.resolve()
    if endpoint.trailing_silence >= endpoint.longest or endpoint.shortest >= endpoint.longest:
        raise ConfigError("endpoint.trailing_silence and endpoint.shortest must be less than endpoint.longest")
