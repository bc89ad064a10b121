# Every target works from a fresh clone; an existing .venv is reused.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo demo-quick test test-all lint bench pool results clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# badcrossbar, a peer that tests compare with, without what it draws with: pycairo needs a C library.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,dev,peft]"
	$(BIN)/python -m pip install --quiet --no-deps "badcrossbar==1.1.0"
	touch $@

demo: $(STAMP)   ## adapt a real transformer to unseen tasks on a simulated chip; prints a table and a report's path
	$(BIN)/lorafusion demo

demo-quick: $(STAMP) ## the same on one task, in under 90 seconds
	$(BIN)/lorafusion demo --quick

lint: $(STAMP)   ## style, types and the arrows between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint       ## lint, then the default test suite
	$(BIN)/python -m pytest -q

test-all: lint   ## everything this machine can run, the slow tests included
	$(BIN)/python -m pytest -q -m "not gpu and not hub"

bench: $(STAMP)  ## times over plain ones on this machine, beside their goals, and memory (docs/performance.md)
	$(BIN)/lorafusion bench

pool: $(STAMP)   ## retrain the shipped LoRA modules
	$(BIN)/lorafusion pool

results: $(STAMP) ## the larger table: more methods, chips and seeds (hours; resumable)
	$(BIN)/lorafusion run results

clean:           ## remove what the targets made, runs excepted
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
