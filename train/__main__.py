"""``python -m train`` is ``edge-stt train``."""

import sys

from edge_stt.cli import main

sys.argv.insert(1, "train")
main()
