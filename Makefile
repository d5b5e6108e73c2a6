# Every target creates what it needs: a fresh machine wants only Python 3.11, git and make.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# pip 25.1 is the first that reads dependency groups.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable '.[grpc,local,loki,s3,parquet]' --group dev
	@touch $@

.PHONY: venv
venv: $(STAMP) ## Create the virtual environment

.PHONY: demo
demo: $(STAMP) ## Forward real processes' output, break everything on purpose, prove nothing is lost
	$(BIN)/sandbox-forwarder demo

.PHONY: servers
servers: ## Build real servers for the sinks' tests: collector, OpenSearch, Loki, S3 stores
	bash tests/servers/install.sh

.PHONY: test
test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest -n 2

.PHONY: format
format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --exit-zero --quiet .

.PHONY: lint
lint: $(STAMP) ## Format check, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: check
check: lint test ## Everything that must be green before a commit

.PHONY: mutants
mutants: $(STAMP) ## Seed bugs, one at a time, and see that a test notices each
	$(BIN)/python -m tests.mutants

CYCLES ?= 1000
POWER_CYCLES ?= 200
MINUTES ?= 60

.PHONY: crash
crash: $(STAMP) ## Kill, cut the power and die at every disk change: CYCLES=1000
	CRASH_CYCLES=$(CYCLES) $(BIN)/python -m pytest -s --timeout 14400 tests/crash/test_kill.py tests/crash/test_faults.py
	CRASH_POINTS=all $(BIN)/python -m pytest -s --timeout 14400 tests/crash/test_kill_points.py
	CRASH_CYCLES=$(POWER_CYCLES) $(BIN)/python -m pytest -s --timeout 14400 tests/crash/test_power_loss.py

.PHONY: soak
soak: $(STAMP) ## One fault after the other for MINUTES=60, then compare every byte
	SOAK_S=$$(( $(MINUTES) * 60 )) $(BIN)/python -m pytest -s --timeout 0 tests/crash/test_soak.py

.PHONY: bench
bench: $(STAMP) ## Measure lines/s, CPU and memory, next to the vendor's CLI, in one run
	$(BIN)/python -m benchmarks

.PHONY: schema
schema: $(STAMP) ## Write config/schema.json from the settings classes
	$(BIN)/python -m tests.unit.config.write_schema

# Pinned, and apart from the other tools: newer generators write code that refuses protobuf 5.
.PHONY: proto
proto: ## Generate the API messages from their .proto
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/pip install --quiet 'grpcio-tools==1.64.3' 'setuptools<81'
	.venv-proto/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. forwarder/source/messages.proto
	rm -rf .venv-proto

.PHONY: clean
clean: ## Remove what the targets created
	rm -rf $(VENV) .servers .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
