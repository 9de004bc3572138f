# `make demo` and `make test` need Python >= 3.11 and nothing else: all the rest lands in .venv.
.POSIX:
.NOTPARALLEL:
.PHONY: help demo test lint types tests bench setup clean

# The interpreter that .venv is made with; left empty, the first one that is new enough.
PYTHON ?=
# For pytest, e.g. make tests PYTEST_ARGS='-k codec'
PYTEST_ARGS ?=
# For the demo, e.g. make demo DEMO_ARGS='--help'
DEMO_ARGS ?=

VENV = .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

help:
	@echo 'make demo    a federation of 10 devices on this machine, and an attack on it'
	@echo 'make test    lint, types and tests: what a change has to pass'
	@echo 'make lint    ruff: rules and format'
	@echo 'make types   mypy --strict'
	@echo "make tests   pytest alone; PYTEST_ARGS='-k codec' picks some"
	@echo 'make bench   every benchmark, in its quick form'
	@echo 'make setup   only what each of the above does first: .venv with all that is needed'
	@echo 'make clean   remove .venv, caches and build output; runs/ stays'
	@echo
	@echo 'PYTHON=python3.12 picks the Python that .venv is made with (3.11 or newer).'

demo: $(READY)
	@$(BIN)/tacit demo $(DEMO_ARGS)

test: lint types tests

lint: $(READY)
	@echo '== lint'
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)
	@echo '== types'
	@$(BIN)/mypy

tests: $(READY)
	@echo '== tests'
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

bench: $(READY)
	@for file in benchmarks/*.py; do \
	  [ -e "$$file" ] || continue; \
	  echo "== $$file"; \
	  $(BIN)/python "$$file" --quick || exit 1; \
	done

setup: $(READY)
	@echo '$(VENV) is ready'

# The stamp is written last: an interrupted set-up is taken up again by the next call.
$(READY): pyproject.toml constraints.txt
	@PYTHON='$(PYTHON)' sh .ci/venv $(VENV)
	@touch $(READY)

clean:
	@rm -rf $(VENV) build dist ./*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
