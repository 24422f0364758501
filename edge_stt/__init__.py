"""edge-stt: speech-to-text that you train from scratch, own completely, and run on a Raspberry Pi.

>>> import edge_stt
>>> edge_stt.load_model().transcribe("speech.wav").text  # doctest: +SKIP
"""

from __future__ import annotations

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
