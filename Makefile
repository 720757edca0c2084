# Three commands: `make simulate`, `make test`, and `make faults`, which strikes real processes and takes
# minutes. Each makes the environment it needs.
PYTHON ?= python3
OUT ?= runs/quickstart

.PHONY: simulate test faults
simulate: .venv/installed
	.venv/bin/ppfl simulate quickstart --out $(OUT)

test: .venv/installed
	.venv/bin/python -m pytest

faults: .venv/installed
	.venv/bin/python -m pytest -m faults -n 0 tests/end_to_end

.venv/installed: pyproject.toml $(wildcard ppfl/crypto/_kernel/*)
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -e '.[dev]'
	touch $@
