# One virtual environment in .venv, built once and again whenever pyproject.toml or constraints.txt change.
# make BOOTSTRAP=python3.12 ... chooses the interpreter that creates it.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
ARGS ?=

# The first interpreter that runs, is new enough and can create environments.
BOOTSTRAP ?= $(shell for candidate in python3.11 python3.12 python3.13 python3 python; do \
	if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo "$$candidate"; break; fi; done)

.DEFAULT_GOAL := help
.PHONY: help install demo bench targets snippets conformance reference test test-all check format lint types clean distclean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(BOOTSTRAP)" ]; then \
		echo "Python 3.11 or newer, with its venv module, was not found." >&2; \
		echo "Install it (on Debian and Ubuntu: python3 and python3-venv) or name one: make BOOTSTRAP=/path/to/python3.11" >&2; \
		exit 1; \
	fi
	"$(BOOTSTRAP)" -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP)  ## create .venv with everything pinned in constraints.txt

demo: $(STAMP)  ## quantize a pretrained CNN on photographs and show what it costs and gains
	$(PYTHON) -m benchmarks.demo $(ARGS)

bench: $(STAMP)  ## measure accuracy, size and latency of the built-in recipes
	$(PYTHON) -m benchmarks $(ARGS)

targets: $(STAMP)  ## set up the execution providers that can be had here, in build/targets
	$(VENV)/bin/convert-onnx targets setup $(ARGS)

snippets: targets  ## run the programs of `convert-onnx snippet` in Python, C++, Node.js and a browser, and compare them
	$(PYTHON) -m benchmarks.targets snippets

conformance: targets  ## every recipe, target and small graph, run where it can be; writes docs/conformance.md
	OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.targets conformance --jobs 2

reference: $(STAMP)  ## write docs/reference from docstrings, fields and --help
	$(PYTHON) -m benchmarks.reference_pages

# Each worker computes on one thread, since there is a worker for each core. A worker that crashes ends the run with the
# name of its test: pytest-xdist would start another and then wait for ever.
WORKERS := -n auto --dist loadfile --max-worker-restart 0
test test-all: export OMP_NUM_THREADS ?= 1

test: $(STAMP)  ## the fast tests, at most 5 minutes on two cores; ARGS="-k gptq" is passed on
	$(PYTHON) -m pytest $(WORKERS) -m "not slow" $(ARGS)

test-all: $(STAMP)  ## every test, at most 20 minutes on two cores; ARGS as for test
	$(PYTHON) -m pytest $(WORKERS) $(ARGS)

lint: $(STAMP)  ## formatting and lint, changing nothing
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types: $(STAMP)  ## mypy, strict
	$(PYTHON) -m mypy

check: lint types test-all  ## the one command to be sure: format, lint, types, every test

format: $(STAMP)  ## format the code and apply the safe fixes
	$(PYTHON) -m ruff check --fix-only .
	$(PYTHON) -m ruff format .

clean:  ## remove caches and build products
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove the virtual environment too
	rm -rf $(VENV)
