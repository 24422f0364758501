"""Tests of edge-stt. Those marked ``workstation`` need the train extra."""
