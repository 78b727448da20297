# demo and test set everything up in .venv; nothing is installed outside of this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.hpp')

.PHONY: demo test lint format bench clean

demo: $(VENV)/.demo
	$(BIN)/tersor demo --force

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run_all

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

# The package is built as a wheel, as users get it: a change of any source file builds it again.
$(VENV)/.%: $(VENV)/.python pyproject.toml CMakeLists.txt $(SOURCES) $(shell find src -name '*.py')
	$(BIN)/pip install '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist
