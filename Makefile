# `make` lists the targets. Each makes .venv first if it is not there.
PYTHON ?= python3
BIN := .venv/bin
# With more threads, small linear algebra is many times slower.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo unit test lint docs bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 12

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/ready ## relax the crystals in examples/ with the shipped model
	$(BIN)/repose relax examples --out examples/relaxed

unit: .venv/ready ## the quick tests, on all cores
	$(BIN)/python -m pytest tests/unit --numprocesses auto

test: .venv/ready ## all tests, on all cores
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup

lint: .venv/ready ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: .venv/ready ## build the documentation, warnings as errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: .venv/ready ## direct against iterative relaxation; needs the extra `bench` and a dataset in DATA
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python studies/direct_vs_iterative/direct_vs_iterative.py --data $(DATA)

clean: ## remove what was made
	rm -rf .venv docs/_build docs/reference .pytest_cache .ruff_cache .hypothesis examples/relaxed
