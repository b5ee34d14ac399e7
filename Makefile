# Everything a contributor types. One virtual environment, .venv, shared by every target; two stamps in it say what
# is installed, so that `make demo` on a fresh machine does not wait for the developers' tools.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help venv demo test test-long check format bench lock clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON_READY := $(VENV)/.python-ready
DEMO_READY := $(VENV)/.demo-ready
DEV_READY := $(VENV)/.dev-ready
INPUTS := pyproject.toml constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The versions were resolved and tested with 3.11, so it is asked for first; PYTHON=... overrides.
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$candidate; break; }; done)
ARGS ?=

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(DEV_READY)  ## create .venv with everything a developer needs

demo: $(DEMO_READY)  ## one model over four agents on this machine; ARGS="--prompt ... --nodes 3"
	@$(BIN)/shoal demo $(ARGS)

test: $(DEV_READY)  ## every test but the ones marked long; ARGS="-k name"
	$(BIN)/pytest -m "not long" $(ARGS)

test-long: $(DEV_READY)  ## the tests that take minutes
	$(BIN)/pytest -m long $(ARGS)

check: $(DEV_READY)  ## format, lint, types, layers, house rules, unit files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/house tests/integration/test_systemd.py

format: $(DEV_READY)  ## let ruff write the files
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV_READY)  ## measure; writes bench-results/ and prints ratios
	$(BIN)/python -m tests.bench.run $(ARGS)

lock:  ## resolve the newest allowed versions into constraints.txt
	rm -rf build/lock
	"$(PYTHON)" -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	build/lock/bin/python -m pip freeze --exclude shoal > build/lock/constraints.txt
	mv build/lock/constraints.txt constraints.txt
	rm -rf build/lock

clean:  ## remove everything that can be made again
	rm -rf $(VENV) build dist bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find agent protocol models tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(PYTHON_READY):
	@test -n "$(PYTHON)" || { echo "shoal needs Python 3.11 or newer, and found none on PATH." >&2; exit 1; }
	@rm -rf $(VENV)
	@"$(PYTHON)" -m venv $(VENV) >/dev/null 2>&1 \
		|| { rm -rf $(VENV); "$(PYTHON)" -m venv --without-pip $(VENV) \
			&& "$(PYTHON)" -m pip --python $(BIN)/python install --quiet pip; } \
		|| { rm -rf $(VENV); echo "$(PYTHON) can make no virtual environment: it has neither ensurepip nor a usable pip." >&2; \
			echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(DEMO_READY): $(INPUTS) | $(PYTHON_READY)
	@echo "installing pinned versions into $(VENV) (demo) ..."
	@$(PIP_INSTALL) --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(DEV_READY): $(INPUTS) | $(PYTHON_READY)
	@echo "installing pinned versions into $(VENV) (dev) ..."
	@$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $(DEMO_READY) $@
