"""``python -m train`` is ``edge-stt train``."""

from .cli import app

app(prog_name="edge-stt train")
