# `make` lists the targets. Everything is installed below this folder (.venv, .tools), except
# tmux, git and python3-venv, which come from the system's packages where they are missing.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV ?= .venv
export VENV
BIN := $(VENV)/bin
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install everything that demo and test need
	@sh scripts/setup-venv
	@sh scripts/setup-tools

.PHONY: demo
demo: setup ## Watch a small real squad for a minute (KEEP=1: stay up and print the URLs)
	@$(BIN)/squad-otel demo --folder .demo $(if $(KEEP),--keep)

.PHONY: test
test: setup lint ## Everything: formatter, linter, types, then all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: test-all
test-all: ## The quick tests with every Python that is supported, newest and oldest dependencies
	sh scripts/test-all

.PHONY: unit
unit: setup ## The quick tests only: no servers
	$(BIN)/python -m pytest -m 'not integration' $(PYTEST_ARGS)

.PHONY: soak
soak: setup ## kill -9 at 200 random moments: nothing lost, nothing doubled (KILLS=n, SEED=n)
	SQUAD_OTEL_KILLS=$(or $(KILLS),200) SQUAD_OTEL_SEED=$(or $(SEED),0) \
	  $(BIN)/python -m pytest -s tests/integration/test_soak.py

.PHONY: lint
lint: setup ## Formatter, linter and type checker, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: format
format: setup ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: setup ## Side-by-side measurements, each a ratio
	@for file in benchmarks/*.py; do echo "== $$file"; PYTHONPATH=. $(BIN)/python $$file || exit 1; done

.PHONY: fuzz
fuzz: setup ## Each parser against made-up input, guided by coverage (SECONDS=30 a target)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[fuzz]'
	@$(BIN)/python -m fuzz --seconds $(or $(SECONDS),30) $(TARGETS)

.PHONY: dashboard
dashboard: setup ## Write the Grafana dashboard anew from its description
	$(BIN)/python grafana/build.py

.PHONY: wheel
wheel: setup ## Build the package into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

.PHONY: clean
clean: ## Remove what setup, demo and tests made in this folder
	rm -rf .venv .venvs .tools .demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
