# Two commands do everything on a fresh machine: `make demo` and `make test`.
# `make test-onedl` runs the core of the tests on a second stack, in an environment of
# its own. All set up what they need first; what is done already is skipped.
VENV ?= .venv
PYTHON ?=
ARGS ?=
JOBS ?= 2
PY := $(VENV)/bin/python
ONEDL_VENV ?= .venv-onedl
ONEDL_PY := $(ONEDL_VENV)/bin/python
# One BLAS thread per test process: two processes share the cores evenly.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# What `make test-onedl` runs: what meets the host libraries. Left out is what is the
# same code on both stacks (losses, operators), about this repository, or slow.
# Files of tests/text: pytest takes two conftest.py of folders for one.
CORE := $(wildcard tests/text/test_*.py) $(addprefix tests/, hooks seg/test_seg_views.py seg/test_skds_on_segmentors.py \
	$(addprefix compat/test_, checkpoint.py ops_stock_models.py stock_apis.py \
	stock_loading.py) $(addprefix det/test_, chen_on_detectors.py det_views.py \
	ld_on_detectors.py) $(addprefix runner/test_, critic.py ddp.py ema.py precision.py \
	soft_teacher.py stock_student.py weight_zero.py) netaug $(addprefix tools/test_, \
	export_tool.py test_tool.py train.py) $(addprefix test_, config.py distiller.py \
	dry_run.py export.py taps.py teacher.py teacher_loading.py training.py))
# Seconds after which that run is stopped and has failed.
CORE_LIMIT ?= 1500
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-seg demo-gan demo-seeds demo-seg-seeds demo-gan-seeds test setup-onedl test-onedl coverage lint format typecheck docs docs-links check clean

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

demo-gan: setup  ## The same for pictures from edges, with GAN Compression
	$(PY) tools/demo.py --task demo_gan $(ARGS)

demo-seeds: setup  ## The demo's two students over three seeds
	$(PY) tools/demo.py --seeds 0 1 2 --results docs/results $(ARGS)

demo-seg-seeds: setup  ## The same for segmentation
	$(PY) tools/demo.py --task demo_seg --seeds 0 1 2 --results docs/results $(ARGS)

demo-gan-seeds: setup  ## The same for pictures from edges
	$(PY) tools/demo.py --task demo_gan --seeds 0 1 2 --results docs/results $(ARGS)

test: setup  ## Run every test and doctest (ARGS='-k name' for some)
	$(TEST_ENV) $(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

setup-onedl:  ## Create the second environment, with the OneDL forks
	@PYTHON='$(PYTHON)' VENV='$(ONEDL_VENV)' REQUIREMENTS=requirements/onedl.txt \
		sh requirements/setup.sh

test-onedl: setup-onedl  ## Run the core of the tests on the OneDL forks
	$(TEST_ENV) timeout --kill-after=20 $(CORE_LIMIT) $(ONEDL_PY) -m pytest -n $(JOBS) \
		--dist worksteal $(CORE) $(ARGS) || { status=$$?; [ $$status -ne 124 ] || \
		echo 'FAILED: the tests on OneDL took more than $(CORE_LIMIT) s' >&2; \
		exit $$status; }

coverage:  ## Try every stock config family (an hour; ARGS=mmdet/gfl for one)
	@PYTHON='$(PYTHON)' VENV=.venv-coverage REQUIREMENTS=requirements/coverage.txt \
		sh requirements/setup.sh
	.venv-coverage/bin/python tools/coverage.py --jobs $(JOBS) $(ARGS)

lint: setup  ## Check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup  ## Rewrite files in the project's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

typecheck: setup  ## Check the types of the package
	$(PY) -m mypy

# Sources from the root: README and configs/*/README.md are pages, too (docs/conf.py).
SPHINX := $(PY) -m sphinx -n -c docs .
docs: setup  ## Build the documentation; warnings and broken links are errors
	$(TEST_ENV) $(SPHINX) -b html -W --keep-going docs/_build/html $(ARGS)
	@echo 'It is in docs/_build/html/index.html'

docs-links: setup  ## Try the links to other sites (needs the Internet)
	$(TEST_ENV) $(SPHINX) -b linkcheck docs/_build/linkcheck $(ARGS)

check: lint typecheck test  ## All of the above checks

clean:  ## Remove build products and caches (keeps the environment and data)
	rm -rf build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
