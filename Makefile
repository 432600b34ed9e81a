# `make demo` and `make test` do everything on a fresh machine that has Python >= 3.11: the environment is made in
# .venv once, and again whenever pyproject.toml changes. PYTHON=/path/to/python chooses another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two test processes, each with one thread: more threads than cores only wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 DUCC0_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test test-bounds torture memory-matrix lint clean

help:
	@echo "make demo   simulate a spectral-line observation, image it, draw the result into demo/"
	@echo "make test   run the test suite"
	@echo "make test-bounds run the tests of compiled loops with the bounds of every array access checked"
	@echo "make torture kill runs at 50 random moments, refuse 200 calls of the file system, and other tests of reliability at full length"
	@echo "make memory-matrix compare the memory that 42 kinds of jobs take with what is predicted"
	@echo "make lint   check style, types and the direction of imports"
	@echo "make clean  remove the environment and everything that was built"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "gpucube needs Python 3.11 or newer, but '$(PYTHON)' is `$(PYTHON) --version 2>&1`;" \
	       "say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[test]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/gpucube demo --out demo

test: $(STAMP)
	@$(ONE_THREAD) $(BIN)/python -m pytest -q -n 2

# Compiled with checks, so in a cache of its own. Kernels have their sanitizers in `make test`.
test-bounds: $(STAMP)
	@$(ONE_THREAD) NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/bounds $(BIN)/python -m pytest -q -n 2 \
	  tests/data tests/devices/test_cpu_loops.py tests/devices/test_beams.py tests/imaging tests/run/test_properties.py

torture: $(STAMP)
	@$(ONE_THREAD) PYTHONPATH=. $(BIN)/python tests/torture.py --kills 50 --channels 5000
	@$(ONE_THREAD) GPUCUBE_EXAMPLES=400 $(BIN)/python -m pytest -q tests/run/test_properties.py

memory-matrix: $(STAMP)
	@$(ONE_THREAD) $(BIN)/python tests/memory_matrix.py

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
