"""A speech-to-text server for Home Assistant and others that speak the Wyoming protocol."""
