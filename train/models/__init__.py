"""Architectures, one file each: a class with the interface of `base.CTCModel`, whose frozen config is in `configs`."""
