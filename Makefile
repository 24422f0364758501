# `make demo` and `make test` do their own set-up: only Python 3.11 to 3.13 and make are needed.
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   transcribe a clip of real speech with the model that comes along"
	@echo "make test   install everything the tests need, run linters and tests"
	@echo "make clean  remove the environments these made"

demo: .venv-demo/ready
	.venv-demo/bin/edge-stt transcribe --timing edge_stt/data/demo.opus

test: .venv-test/ready
	PYTHON="$(PYTHON)" deploy/run-tests

# The base install: what runs on a device.
.venv-demo/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found: install one, or say make PYTHON=..." >&2; exit 1; }
	PYTHON="$(PYTHON)" deploy/make-venv .venv-demo .
	touch $@

.venv-test/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found: install one, or say make PYTHON=..." >&2; exit 1; }
	PYTHON="$(PYTHON)" deploy/make-venv .venv-test '.[train,bench,dev]'
	touch $@

clean:
	rm -rf .venv-demo .venv-test .venv-tflite build dist *.egg-info
