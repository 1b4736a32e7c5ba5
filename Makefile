# On a fresh machine (Python >= 3.11 and make): `make demo` runs the whole road, `make test` runs the tests.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
CORPUS ?= $(or $(UNIPART_CORPUS),../shared/data)

.PHONY: help demo overfit test check format bench env kernels clean

help:            ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/  /'

demo: kernels    ## meshes -> shards -> four models -> objects made of parts -> scores -> report.html
	$(BIN)/unipart demo

overfit: kernels ## do the models learn? eight objects by heart, every bar printed (about an hour)
	$(BIN)/python -m jobs.overfit $(if $(wildcard $(CORPUS)/dev),--corpus $(CORPUS))

test: kernels    ## unit, contract and integration tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 20 tests

check: env       ## formatting, lint, types, import contracts, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell

format: env      ## rewrite the sources as `check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env       ## each hot path against its reference (see docs/benchmarks.md)
	$(BIN)/python -m benchmarks

env: .venv/.installed  ## create .venv from constraints.txt, development tools included

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("UniPart needs Python >= 3.11, this is " + sys.version.split()[0] + "; give another with make PYTHON=python3.x") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib unipart pipelines jobs || true  # on all cores; pip takes one file after another
	@touch $@

kernels: .venv/.kernels  ## compile the geometry kernels, which are kept beside their sources

.venv/.kernels: .venv/.installed $(wildcard unipart/geometry/*.py)
	$(BIN)/python -c 'from pipelines.process import warm_up; warm_up()'
	@touch $@

clean:           ## remove the environment and the demo's output
	rm -rf .venv demo overfit build dist *.egg-info
