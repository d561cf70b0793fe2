# Every target sets up .venv by itself the first time, and again when pyproject.toml or constraints.txt change.
PYTHON ?= python3
EXTRAS ?= all,oracle,dev
ARGS ?=
# Processes the tests run in, one thread each; 0 runs them in pytest itself, as a debugger needs.
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test slow lint bench clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

venv: $(STAMP)  ## set up .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)  ## the tour: examples/demo.py
	$(BIN)/python examples/demo.py $(ARGS)

test: $(STAMP)  ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal $(ARGS)

slow: $(STAMP)  ## the slow tests
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(STAMP)  ## ruff, the formatter and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## all speeds beside other engines, on this machine, into docs/performance.md (ARGS=--quick: a look)
	$(BIN)/python -m benchmarks.all $(ARGS)

clean:  ## remove environments, caches and built files
	rm -rf .venv .venv-min build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests examples benchmarks recipes -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
