# Two commands: `make simulate` and `make test`. Both make the environment they need.
PYTHON ?= python3
OUT ?= runs/quickstart

.PHONY: simulate test
simulate: .venv/installed
	.venv/bin/ppfl simulate quickstart --out $(OUT)

test: .venv/installed
	.venv/bin/python -m pytest

.venv/installed: pyproject.toml $(wildcard ppfl/crypto/_kernel/*)
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -e '.[dev]'
	touch $@
