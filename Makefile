# make demo    set everything up and run the main job        make test       set everything up, then every check
# make install set up .venv and no more                      make test-all   the slow tests too
# make lint    style, types, import contract                 make bench      against the rivals, side by side
#
# The package index gives Linux a torch with gigabytes of GPU libraries. Without a GPU, name PyTorch's CPU index:
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= --numprocesses auto --maxprocesses 4 --dist worksteal

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
WANTED := pyproject.toml setup.py constraints.txt $(wildcard src/groundup/kernels/native/*)

.PHONY: install demo test test-all lint bench clean

install: $(VENV)/.installed

demo: install
	@$(BIN)/python examples/newsroom.py

test: lint
	@echo "==> tests"
	@$(BIN)/python -m pytest -q $(WORKERS)

test-all: lint
	@echo "==> tests, the slow ones too"
	@$(BIN)/python -m pytest -q -m "" $(WORKERS)

lint: $(VENV)/.installed-dev
	@echo "==> style, types, import contract"
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "run: $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo > $(VENV)/lint-imports.log 2>&1 || { cat $(VENV)/lint-imports.log >&2; exit 1; }

bench: $(VENV)/.installed-dev
	@for script in benchmarks/bench_*.py; do echo "==> $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "groundup needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) --version 2>&1); make PYTHON=python3.11 names another" >&2; \
	  exit 1; }
	@echo "==> making $(VENV) with $$($(PYTHON) --version 2>&1)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(WANTED)
	@echo "==> installing groundup and its libraries into $(VENV) (a few minutes the first time; torch is the large one)"
ifneq ($(TORCH_INDEX),)
	@$(PIP) --no-deps --index-url $(TORCH_INDEX) torch
endif
	@$(PIP) -e '.[data,eval]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "==> installing what the tests need into $(VENV)"
	@$(PIP) -e '.[data,eval,dev]'
	@touch $@
