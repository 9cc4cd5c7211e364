PYTHON ?= python

.PHONY: style quality test test-slow

style:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

quality:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

test:
	$(PYTHON) -m pytest -m "not demo and not packaging" tests

test-slow:
	$(PYTHON) -m pytest -m "demo or packaging" tests
