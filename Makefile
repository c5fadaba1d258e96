# Every command of the project. `make help` lists them.
# The first of these that starts here; `make PYTHON=...` names another (3.11 to 3.13).
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell python$(v) -c "print('python$(v)')" 2>/dev/null)) python3)
VENV   := .venv
BIN    := $(VENV)/bin
# torch is named alone and exactly, so that pip takes the build that is configured for this machine.
TORCH  := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo demo-service test test-all check lint types imports house format chart docs bench simulate mutants kills kills-of-service clean

help: ## prints this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime ## installs what running takes (the other targets do so on demand)

setup-dev: $(VENV)/.dev ## installs that and the tools of developers

demo: $(VENV)/.runtime ## learns 4 subjects and generates images of them; prints where to look
	$(BIN)/dti demo --output demo-output

demo-service: $(VENV)/.runtime ## the same by a service over HTTP, which it starts and stops
	$(BIN)/dti demo-service --output demo-service-output

docs: $(VENV)/.dev ## builds the documents into site/, with the generated reference; checks links
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

TESTERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TESTERS) --no-loadscope-reorder --durations=25
FAST   := not slow and not ray and not chaos and not gpu

test: $(VENV)/.dev ## runs the fast tests in TESTERS processes; they need no Ray node
	$(PYTEST) -m "$(FAST)"

test-all: test ## runs those and then the slow ones: Ray nodes, fault injection, GPUs
# Tests of clusters have deadlines, which two busy cores can miss: what failed runs once more, alone.
	$(PYTEST) -m "not ($(FAST))" || \
	  $(BIN)/python -m pytest -m "not ($(FAST))" --last-failed --last-failed-no-failures none

check: lint types imports house ## runs ruff, shellcheck, hadolint, pyright strict, import contracts and house rules

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck deploy/*.sh
	$(BIN)/hadolint Dockerfile

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.dev
	$(BIN)/lint-imports

house: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/architecture/test_house.py

format: $(VENV)/.dev ## rewrites the code in the common format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

chart: $(VENV)/.dev ## writes the Helm chart's values, schema, README and dashboards from helm/
	$(BIN)/python -m helm.values
	$(BIN)/python -m helm.dashboards

bench: $(VENV)/.dev ## measures speed, memory and steps on this machine
	$(BIN)/python -m benchmarks.training.rsgd_step
	$(BIN)/python -m benchmarks.training.optimizer_share
	$(BIN)/python -m benchmarks.training.throughput
	$(BIN)/python -m benchmarks.training.memory
	$(BIN)/python -m benchmarks.training.checkpoints
	$(BIN)/python -m benchmarks.training.schedules
	$(BIN)/python -m benchmarks.training.operations
	$(BIN)/python -m benchmarks.training.activations
	$(BIN)/python -m benchmarks.training.sandbox
	$(BIN)/python -m benchmarks.training.subjects
	$(BIN)/python -m benchmarks.generation.images
	$(BIN)/python -m benchmarks.generation.continuous_batching
	$(BIN)/python -m benchmarks.generation.neighbours
	$(BIN)/python -m benchmarks.generation.token_cache

SEEDS ?= 1000
simulate: $(VENV)/.dev ## simulates the ledger under faults, SEEDS times (SEEDS=200000 for many)
	PYTHONPATH=tests $(BIN)/python -m chaos.simulation $(SEEDS)

mutants: $(VENV)/.dev ## takes out one safeguard after the other, and some test must fail (MUTANTS="a b" for some)
	PYTHONPATH=tests $(BIN)/python -m mutants $(MUTANTS)

STORE ?= kills-output
ROUNDS ?= 10
kills: $(VENV)/.dev ## kills and stops the ledger's processes on STORE (a folder or s3://...), ROUNDS times
	PYTHONPATH=tests $(BIN)/python -m chaos.processes $(STORE) --rounds $(ROUNDS)

kills-of-service: $(VENV)/.dev ## does the same to the whole service: workers, supervisor, API and Ray node
	PYTHONPATH=tests $(BIN)/python -m chaos.service $(STORE) --rounds $(ROUNDS)

clean: ## removes what make made
	rm -rf $(VENV) site demo-output demo-service-output kills-output mutants-output .pytest_cache .ruff_cache *.egg-info

$(VENV)/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,triton]'
	touch $@
