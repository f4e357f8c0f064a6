# headtohead: `make study` answers the first question, `make test` checks the whole tree. Both set everything up.
#
#   PYTHON=python3.12     the interpreter the environment is made with (3.11 or newer)
#   TORCH_INDEX=<address> another package index to take PyTorch from: its CPU index, or the one of a CUDA version
#                         (PyTorch's "Get started" page lists them). Without it: pip's own index.
#   STUDY=studies/x.toml  another study;  OUT=runs/x  another folder for it;  ARGS='--workers 1'  more options

PYTHON ?= python3
TORCH_INDEX ?=
STUDY ?= studies/first-look.toml
OUT ?= runs/$(basename $(notdir $(STUDY)))
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
# Two test workers of one thread each: two of two threads would fight over the cores of a small machine.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help study setup test lint format clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

study: setup ## set up, then answer the question of studies/first-look.toml
	$(BIN)/headtohead study $(STUDY) --out $(OUT) $(ARGS)

setup: $(STAMP) ## the environment in .venv, with the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: headtohead needs Python 3.11 or newer; choose one with: make PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifneq ($(TORCH_INDEX),)
	$(BIN)/python -m pip install --quiet -c constraints.txt --index-url $(TORCH_INDEX) torch
endif
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

test: setup ## set up, then lint, format, types, import rules and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS)

lint: setup ## ruff, types and import rules only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: setup ## let ruff put the files in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the caches (not .venv, not runs/)
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
