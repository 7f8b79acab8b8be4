# make demo   a ladder VAE trained, evaluated and drawn, from a fresh clone
# make test   linters, types, import rules and every test
#
# PYTHON=python3.12     another interpreter (3.11 or newer)
# PIP_ARGS=...          further arguments for pip, e.g. a wheel index of CPU-only torch:
#                       PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
DEMO := runs/demo
BIN := $(VENV)/bin
# pip compiles nothing, so that installing stays short; what is imported is compiled once and kept.
# Where that is forbidden each command pays for it anew, seven seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test checked tested clean

demo: $(VENV)/.installed
	@if [ -e $(DEMO) ]; then echo "$(DEMO) of an earlier demo is removed and trained anew"; rm -rf $(DEMO); fi
	$(BIN)/ppl-vae train lvae-digits --out $(DEMO)
	$(BIN)/ppl-vae evaluate $(DEMO)

test: $(VENV)/.installed-dev
	$(MAKE) --jobs=2 --keep-going checked tested

checked:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tested:
	$(BIN)/pytest -n 2 --dist worksteal -q

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is older than Python 3.11: name a newer one, make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed
