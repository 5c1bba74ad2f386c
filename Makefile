# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Both set up a virtual environment first; what is done already is skipped.
VENV ?= .venv
PYTHON ?=
ARGS ?=
JOBS ?= 2
PY := $(VENV)/bin/python
# One BLAS thread per test process: two processes share the cores evenly.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-seg demo-seeds demo-seg-seeds test lint format typecheck docs check clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)
	@echo '  Options: PYTHON=python3.12 VENV=/path/to/venv ARGS="pytest options"'

setup:  ## Create the virtual environment (repeatable; a few minutes once)
	@PYTHON='$(PYTHON)' VENV='$(VENV)' sh requirements/setup.sh

demo: setup  ## Train teacher, student and distilled student on digits
	$(PY) tools/demo.py $(ARGS)

demo-seg: setup  ## The same for segmentation, with structured distillation
	$(PY) tools/demo.py --task demo_seg $(ARGS)

demo-seeds: setup  ## The demo's two students over three seeds
	$(PY) tools/demo.py --seeds 0 1 2 --results docs/results $(ARGS)

demo-seg-seeds: setup  ## The same for segmentation
	$(PY) tools/demo.py --task demo_seg --seeds 0 1 2 --results docs/results $(ARGS)

test: setup  ## Run every test and doctest (ARGS='-k name' for some)
	$(TEST_ENV) $(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: setup  ## Check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup  ## Rewrite files in the project's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

typecheck: setup  ## Check the types of the package
	$(PY) -m mypy

docs: setup  ## Check links, commands and code in README and docs
	$(TEST_ENV) $(PY) -m pytest tests/test_readme.py $(ARGS)

check: lint typecheck docs test  ## All of the above checks

clean:  ## Remove build products and caches (keeps the environment and data)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
