# Daily work: make fast. Before a commit: make check.
PYTHON := .venv/bin/python

.PHONY: install fast check lint types
install: ## .venv with the package and its test tools
	bash .ci/install test

fast: lint types ## two minutes on two cores: format, lint, types, and the tests that are not marked slow
	$(PYTHON) -m pytest -n 2 --dist worksteal -m "not slow" -q

check: ## all of CI
	bash .ci/test

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy
