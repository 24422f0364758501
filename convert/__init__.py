"""Conversion on a workstation: a trained run → quantised TFLite → a verified model package. Works from a checkout."""
