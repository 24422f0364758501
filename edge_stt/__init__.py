"""edge-stt: speech-to-text that you train from scratch, own completely, and run on a Raspberry Pi.

>>> import edge_stt
>>> edge_stt.load_model().transcribe("speech.wav").text  # doctest: +SKIP
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all of this
if TYPE_CHECKING:
    from .errors import EdgeSttError
    from .hotwords import HotWords
    from .recogniser import Segment, Transcriber, Transcript, Word, load_model
    from .streaming import EndpointConfig, Final, Partial, StreamingTranscriber

__version__ = "0.1.0"

__all__ = [
    "EdgeSttError",
    "EndpointConfig",
    "Final",
    "HotWords",
    "Partial",
    "Segment",
    "StreamingTranscriber",
    "Transcriber",
    "Transcript",
    "Word",
    "__version__",
    "load_model",
]

# Imported when first asked for: numpy and the rest take most of a second on a Raspberry Pi, and every command of
# `edge-stt` begins by importing this package.
_MODULES = {
    "EdgeSttError": "errors",
    "EndpointConfig": "streaming",
    "Final": "streaming",
    "HotWords": "hotwords",
    "Partial": "streaming",
    "Segment": "recogniser",
    "StreamingTranscriber": "streaming",
    "Transcriber": "recogniser",
    "Transcript": "recogniser",
    "Word": "recogniser",
    "load_model": "recogniser",
}

if not TYPE_CHECKING:  # or else a type checker would believe in any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
