"""``python -m train`` is ``edge-stt train``."""

import sys

from edge_stt.__main__ import main

sys.argv.insert(1, "train")
main()
