# demo and test set everything up in .venv; nothing is installed outside of this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc fuzz -name '*.cpp' -o -name '*.hpp')

# make fuzz FUZZ_SECONDS=300 for a long run. Any g++ or clang++ will do; clang++ brings libFuzzer, which sees coverage.
FUZZ_SECONDS ?= 10
FUZZ_CXX ?= $(or $(firstword $(foreach name,clang++ clang++-19 clang++-16 clang++-14,$(shell command -v $(name)))),g++)

.PHONY: demo test lint format fuzz bench clean

demo: $(VENV)/.demo
	$(BIN)/tersor demo --force

# One process a CPU, each with one thread of torch.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

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

fuzz: $(VENV)/.cmake
	$(BIN)/cmake -S . -B build/fuzz -DTERSOR_FUZZ=ON -DCMAKE_CXX_COMPILER=$(FUZZ_CXX)
	$(BIN)/cmake --build build/fuzz --parallel 2
	fuzz/run.sh build/fuzz/fuzz $(FUZZ_SECONDS)

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run_all

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.cmake: $(VENV)/.python
	$(BIN)/pip install 'cmake>=3.20'
	touch $@

# The package is built as a wheel, as users get it: a change of any source file builds it again.
$(VENV)/.%: $(VENV)/.python pyproject.toml CMakeLists.txt $(SOURCES) $(shell find src -name '*.py')
	$(BIN)/pip install '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist
