"""The commands of ``edge-stt``, one module each; `edge_stt.cli` puts them together."""
