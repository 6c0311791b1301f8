# A newcomer's two commands: make demo, make test.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: install demo test lint docs bench clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

# Deep generative replay on handwritten digits, beside naive and joint training.
demo: install
	$(BIN)/reverie run

test: install
	$(BIN)/pytest -q -n auto

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

bench: install
	$(BIN)/python -m benchmarks.step

clean:
	rm -rf .venv build docs/_build
