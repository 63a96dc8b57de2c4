# `make demo` runs the main job and `make test` the tests. Both set up their own environment first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# Let the allocator keep freed memory: PyTorch on a processor otherwise spends much of its time on page faults.
export MALLOC_TRIM_THRESHOLD_ := 8000000000
export MALLOC_MMAP_THRESHOLD_ := 8000000000
# Threads that wait without spinning cost little on a quiet machine and save much on a busy one.
export OMP_WAIT_POLICY := passive
export TOKENIZERS_PARALLELISM := false

.PHONY: docs demo demo-reason test test-slow lint sapling clean

demo: $(VENV)/.ready
	$(VENV)/bin/niwaki run recipes/demo.yaml

demo-reason: $(VENV)/.ready
	$(VENV)/bin/niwaki run recipes/demo-reason.yaml

test: $(VENV)/.ready lint
	$(RUN) -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/.ready
	$(RUN) -m pytest -m slow

# The documentation site, into build/site; a warning is an error.
docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Train the bundled teacher again: about 90 minutes on one processor core, minutes on a GPU.
sapling: $(VENV)/.ready
	$(RUN) -m niwaki.sapling.train --out runs/sapling

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "niwaki needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt torch
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[eval,reason,dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
