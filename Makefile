# Every target makes the virtual environment that it needs, from the lock files, on first use.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
NAME   ?=

RUN := $(VENV)/run
DEV := $(VENV)/dev
OWN := . $(patsubst %/pyproject.toml,./%,$(wildcard examples/*/pyproject.toml))
PIP := -m pip --disable-pip-version-check --no-input install --quiet
SOURCES := $(shell find src examples -type f -not -name '*.pyc' 2>/dev/null) pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check format bench docs lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(RUN)/.installed  ## the whole production on real data, then its report
	@$(RUN)/bin/beamwright demo --open $(ARGS)

test: $(DEV)/.installed  ## the fast test suite (ARGS: further options of pytest)
	$(DEV)/bin/python -m pytest -n 2 -m "not slow and not forks" $(ARGS)
	$(DEV)/bin/python -m pytest -m "not slow and forks" $(ARGS)

test-all: $(DEV)/.installed  ## every test, the slow ones too
	$(DEV)/bin/python -m pytest -n 2 -m "not forks" $(ARGS)
	$(DEV)/bin/python -m pytest -m forks $(ARGS)

check: $(DEV)/.installed  ## lint, format, types, layers, documentation
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	$(DEV)/bin/sphinx-build -q -W --keep-going -b html docs docs/_build/html

format: $(DEV)/.installed  ## let ruff lay out the code and mend what it can
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

bench: $(DEV)/.installed  ## benchmarks: all, a folder or one (NAME=event/rntuple_io ARGS=--json)
	@for bench in $(sort $(wildcard benchmarks/$(NAME).py benchmarks/$(NAME)/[a-z]*.py $(if $(NAME),,benchmarks/*/[a-z]*.py))); do \
		$(DEV)/bin/python $$bench $(ARGS) || exit 1; \
	done

docs: $(DEV)/.installed  ## the documentation, generated pages included
	$(DEV)/bin/python docs/_generate.py
	$(DEV)/bin/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lock:  ## write the lock files anew (needs uv; ARGS=--upgrade for the newest versions)
	.ci/lock $(ARGS)

clean:  ## remove what the targets made
	rm -rf $(VENV) build dist beamwright-demo docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo installs the packages as anyone would, so that its release is an exact one.
$(RUN)/.requirements: requirements/demo.txt
	@echo "making $(RUN)"
	@$(PYTHON) -m venv $(RUN)
	@$(RUN)/bin/python $(PIP) --require-hashes -r requirements/demo.txt
	@touch $@

$(RUN)/.installed: $(RUN)/.requirements $(SOURCES)
	@echo "installing beamwright and the sample experiments"
	@$(RUN)/bin/python $(PIP) --no-deps --no-build-isolation --force-reinstall $(OWN)
	@touch $@

# Developers work on the tree itself. WITH_ROOT=1 adds ROOT, for the tests that read our files with it.
$(DEV)/.requirements: requirements/dev.txt requirements/root.txt
	@echo "making $(DEV)"
	@$(PYTHON) -m venv $(DEV)
	@$(DEV)/bin/python $(PIP) --require-hashes -r requirements/dev.txt $(if $(WITH_ROOT),-r requirements/root.txt)
	@touch $@

$(DEV)/.installed: $(DEV)/.requirements pyproject.toml $(wildcard examples/*/pyproject.toml)
	@echo "installing beamwright and the sample experiments, to be edited in place"
	@$(DEV)/bin/python $(PIP) --no-deps --no-build-isolation $(foreach own,$(OWN),-e $(own))
	@touch $@
