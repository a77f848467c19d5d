# Everything runs in .venv, which is made on first use and again whenever what it should hold changes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: benchmark test lint docs performance setup clean

benchmark: setup
	$(BIN)/python -m telescoping_sklearn benchmark

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --cov --cov-report=term

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

performance: setup
	$(BIN)/python -m tests.performance

setup: .venv/.setup

.venv/.setup: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

.venv/.docs: .venv/.setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

clean:
	rm -rf .venv docs/_build docs/auto_examples docs/generated
