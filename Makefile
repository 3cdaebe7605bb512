# Everything that a person or a build machine calls. `make` alone lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JARS := build/kafka/jars
PROMETHEUS := build/prometheus
UV := $(BIN)/python -m uv
SOURCES := streams featurizers model deploy tests

.DEFAULT_GOAL := help
.PHONY: help setup kafka prometheus demo test drills bench bench-short chaos chaos-short simulation schedules check lint types layers format contracts lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.ready  ## the environment in .venv, from requirements.lock

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "trendstream needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1); say make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# Exactly what the lock file names, then this repository on top; a changed lock or pyproject does it again. Compiled here:
# where Python may not write its byte code, every process would compile torch and timm again, ten seconds each.
$(VENV)/.ready: requirements.lock pyproject.toml | $(BIN)/uv
	@echo "setting up $(VENV) (some minutes the first time)"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --quiet --no-deps --compile-bytecode -r requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

kafka: setup  ## jars of a real Kafka 4.1.0, by Maven, where Java and Maven are
	@$(BIN)/python -m deploy.local_kafka $(JARS)

prometheus: $(PROMETHEUS)/.ready  ## Prometheus and promtool of Debian's package, without being root; where apt-get is

$(PROMETHEUS)/.ready:
	@mkdir -p $(PROMETHEUS)
	@cd $(PROMETHEUS) && apt-get download -qq prometheus 2>/dev/null && dpkg -x prometheus_*.deb . && touch .ready || \
		echo "Debian's package prometheus cannot be had here: the tests that need it say so" >&2

demo: setup kafka  ## the main job on real sales; build/demo/report.html
	@$(BIN)/trendstream demo

test: setup kafka  ## all tests; those on the broker only where there is a Java
	@$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

chaos: setup kafka  ## 50 disturbances of a running system on three brokers, then the checks; CHAOS="--seed 7" for others
	@$(BIN)/python -m tests.chaos $(CHAOS)

bench: setup kafka  ## trendstream beside its peers on a local Kafka; build/bench/engine.json
	@$(BIN)/python -m tests.bench $(BENCH)

simulation: setup  ## heads and planted signals in worlds whose truth is known; some minutes
	@$(BIN)/python -m pytest -m simulation -n 2 --dist load -rA --show-capture=stdout tests/simulation

bench-short: setup kafka  ## the equal job beside its limit alone; fails when it is wrong or far slower than it was
	@$(BIN)/python -m tests.bench.short

chaos-short: setup kafka  ## five disturbances, in some minutes
	@$(BIN)/python -m pytest -m chaos tests/chaos

drills: setup kafka prometheus  ## what docs/runbook.md says, from the symptom on; some minutes
	@$(BIN)/python -m pytest -m drill --durations 10 tests/drills

schedules: setup  ## ten thousand simulated schedules of crashes, rebalances and errors; SCHEDULES="--seed 7" for one
	@$(BIN)/python -m tests.schedules $(SCHEDULES)

check: lint types layers schedules test  ## what the build machine runs, before a short run of chaos

lint: setup  ## ruff: rules and format
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)

types: setup  ## mypy, strict
	@$(BIN)/mypy

layers: setup  ## deploy > model > featurizers > streams
	@$(BIN)/lint-imports

format: setup  ## ruff: put in order what can be
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

contracts: setup  ## JSON Schemas of the topics in docs/contracts, from streams/records/
	@$(BIN)/python -m streams.contracts --write

lock: setup  ## requirements.lock anew, from pyproject.toml
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip compile --quiet --upgrade --python-version 3.11 --universal --extra dev --extra evaluate --extra export \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header pyproject.toml -o requirements.lock

clean:  ## what was made here, the environment too
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
