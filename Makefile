PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TEST_OPTIONS ?= -n 2

.PHONY: demo test check docs benchmarks clean

demo: $(INSTALLED)
	$(BIN)/eigenscope demo

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_OPTIONS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

docs: $(INSTALLED)
	$(BIN)/zensical build --strict --clean

benchmarks: $(INSTALLED)
	$(BIN)/python benchmarks/input_jacobian.py
	$(BIN)/python benchmarks/power_law.py
	$(BIN)/python benchmarks/curvature.py

clean:
	rm -rf $(VENV) dist site eigenscope-demo

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[vision,digits,report]" --group dev --group docs
	touch $@
