"""Architectures, one file each. Each offers a frozen config and a class with the interface of `base.CTCModel`."""
