# Every command of the project. `make help` lists them.
# The first of these that starts here; `make PYTHON=...` names another (3.11 to 3.13).
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell python$(v) -c "print('python$(v)')" 2>/dev/null)) python3)
VENV   := .venv
BIN    := $(VENV)/bin
# torch is named alone and exactly, so that pip takes the build that is configured for this machine.
TORCH  := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo demo-service test test-all check lint types imports format docs bench simulate kills kills-of-service clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime ## what it takes to run (made on demand by the other targets)

setup-dev: $(VENV)/.dev ## the same, and the tools to develop

demo: $(VENV)/.runtime ## learn 4 subjects and generate them; opens nothing, prints where to look
	$(BIN)/dti demo --output demo-output

demo-service: $(VENV)/.runtime ## a service learns and generates 4 subjects over HTTP; prints where to look
	$(BIN)/dti demo-service --output demo-service-output

docs: $(VENV)/.dev ## the documents as a site in site/, with the generated reference; links are checked
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

TESTERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TESTERS) --no-loadscope-reorder
FAST   := not slow and not ray and not chaos and not gpu

test: $(VENV)/.dev ## the tests that need no Ray node and few seconds each, in TESTERS processes
	$(PYTEST) -m "$(FAST)"

test-all: test ## those, and then the slow ones: Ray nodes, faults, GPUs
	$(PYTEST) -m "not ($(FAST))"

check: lint types imports ## ruff, pyright strict, import contracts

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.dev
	$(BIN)/lint-imports

format: $(VENV)/.dev ## rewrite the code in the common format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## every figure on speed, memory and steps, on this machine
	$(BIN)/python -m benchmarks.training.rsgd_step
	$(BIN)/python -m benchmarks.training.optimizer_share
	$(BIN)/python -m benchmarks.training.throughput
	$(BIN)/python -m benchmarks.training.memory
	$(BIN)/python -m benchmarks.training.checkpoints
	$(BIN)/python -m benchmarks.training.schedules
	$(BIN)/python -m benchmarks.training.operations
	$(BIN)/python -m benchmarks.training.activations
	$(BIN)/python -m benchmarks.training.subjects
	$(BIN)/python -m benchmarks.generation.images
	$(BIN)/python -m benchmarks.generation.continuous_batching
	$(BIN)/python -m benchmarks.generation.neighbours
	$(BIN)/python -m benchmarks.generation.token_cache

SEEDS ?= 1000
simulate: $(VENV)/.dev ## the ledger under faults, by seeds (SEEDS=200000 for many)
	PYTHONPATH=tests $(BIN)/python -m chaos.simulation $(SEEDS)

STORE ?= kills-output
ROUNDS ?= 10
kills: $(VENV)/.dev ## the ledger under SIGKILL and SIGSTOP, on STORE (a folder or s3://...), ROUNDS times
	PYTHONPATH=tests $(BIN)/python -m chaos.processes $(STORE) --rounds $(ROUNDS)

kills-of-service: $(VENV)/.dev ## the same of the whole service: its workers, supervisor, API and Ray node
	PYTHONPATH=tests $(BIN)/python -m chaos.service $(STORE) --rounds $(ROUNDS)

clean: ## remove what make made
	rm -rf $(VENV) demo-output demo-service-output kills-output .pytest_cache .ruff_cache *.egg-info

$(VENV)/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,triton]'
	touch $@
