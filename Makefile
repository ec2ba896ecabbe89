# make demo   a first picture          make test   the tests
# Both install into .venv, once, and again when pyproject.toml or a source has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
SOURCES := $(shell find hicast cli presets -name __pycache__ -prune -o -print)

.PHONY: demo test

demo: $(INSTALLED)
	$(BIN)/hicast stylize-image examples/coffee.jpg --style examples/dusk.jpg --output demo/coffee-dusk.png --overwrite
	@echo "The picture is $(CURDIR)/demo/coffee-dusk.png"

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

# With its dependencies where pyproject.toml is new, else the package alone, which takes seconds.
$(INSTALLED): pyproject.toml $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "expected Python 3.11 or newer, found $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	@rm -rf build
	$(if $(filter pyproject.toml,$?),$(PYTHON) -m venv $(VENV))
	$(BIN)/python -m pip install --disable-pip-version-check $(if $(filter pyproject.toml,$?),'.[test]',--quiet --no-deps .)
	@touch $@
