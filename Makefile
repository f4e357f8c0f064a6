# headtohead: `make study` answers the first question, `make test` checks the whole tree. Both set everything up.
#
#   PYTHON=python3.12     the interpreter the environment is made with (3.11 or newer)
#   TORCH_INDEX=<address> PyTorch's CPU index, or the one of your CUDA version (its "Get started" page lists them):
#                         which build of PyTorch to install. Without it: the build that pip finds by default.
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
.PHONY: help study setup test lint format docs clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

study: setup ## set up, then answer the question of STUDY, page in OUT
	$(BIN)/headtohead study $(STUDY) --out $(OUT) $(ARGS)

setup: $(STAMP) ## the environment in .venv, with the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: headtohead needs Python 3.11 or newer; choose one with: make PYTHON=python3.12" >&2; exit 2; }
	@echo "setting up .venv: once, a minute or more, mostly PyTorch's download"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  -c constraints.txt -e '.[dev]'
	@touch $@

test: lint ## set up, then lint, format, types, import rules and tests
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS)

lint: setup ## set up, then lint, format, types and import rules only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: setup ## let ruff put the files in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## make docs/architectures.md and docs/claims.md again, from the presets and the results
	$(BIN)/python -m headtohead.study.gallery docs
	$(BIN)/headtohead claims --write

clean: ## remove the caches (not .venv, not runs/)
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
