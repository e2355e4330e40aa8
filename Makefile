# Everything a contributor types. `make setup` is idempotent: it runs again only when pyproject.toml has changed.
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?= -n 2 --dist loadfile
BIN := .venv/bin
STAMP := .venv/.installed
# One thread a process: two test processes share two cores, and results do not depend on how many there are.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup system demo test test-full check clean

help:
	@echo "make setup      .venv with everything in it"
	@echo "make demo       train, compress and benchmark a small model; writes build/demo/bundle/report.html"
	@echo "make check      ruff and mypy"
	@echo "make test       the tests of every CI run"
	@echo "make test-full  all tests, the slow ones too"
	@echo "make system     system packages that tests use (Debian, as root)"
	@echo "make clean      remove what builds and tests left here (keeps .venv)"

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[dev]"
	touch $@

system:
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else \
		echo "make system: SKIPPED: Chromium is missing and can only be installed by root on Debian; tests of the report's looks will skip." >&2; \
	fi

demo: setup
	$(BIN)/edgemm demo -o build/demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup system
	$(BIN)/pytest -m "not slow" $(PYTEST_ARGS)

test-full: setup system
	$(BIN)/pytest $(PYTEST_ARGS)

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
