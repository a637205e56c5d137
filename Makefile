# Every target sets up what it needs, once, in .venv; only Python 3.11 or newer and make must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
MARKERS ?= not slow
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow notebooks lint format clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(VENV)/.demo ## fine-tune, distil, quantize and measure a real model on real text (about ten minutes)
	$(BIN)/python -m compress recipe=distill_int8

test: $(VENV)/.dev ## the quick tests
	$(PYTEST) -m "$(MARKERS)"

test-slow: $(VENV)/.dev ## the tests that train, export and start processes
	$(PYTEST) -m slow

notebooks: $(VENV)/.dev ## execute the notebooks in place (about half an hour; what is in the store is reused)
	$(BIN)/python notebooks/run.py

lint: $(VENV)/.dev ## what CI checks: ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict compress

format: $(VENV)/.dev ## apply ruff's fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, caches and builds; outputs and the store stay
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch goes first and alone, so that its build (CPU or CUDA) is chosen once, by the index in use,
# and not by the resolver among many packages.
$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@
