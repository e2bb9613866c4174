# Two commands do everything: `make` reproduces, `make test` tests.  Both first make .venv from the lock.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

.PHONY: all env report test test-slow test-faults test-slurm bench lint lock clean

all: $(READY)
	$(BIN)/snakemake

env: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# One HTML file with every figure, the configuration and the versions, of results that are there.
report: $(READY)
	$(BIN)/snakemake --report $(or $(REPORT),results/report.html)

# Two tests at once, a file's in one process: most of them use one core.
test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# Thirty kills, the injected faults, and what each edit reruns.
test-faults: $(READY)
	$(BIN)/python -m pytest -m "faults or not (slow or slurm)" tests/test_faults.py tests/test_workflow.py

# On a Slurm that the tests start and stop: root and Debian packages, or they say why they are skipped.
test-slurm: $(READY)
	$(BIN)/python -m pytest -m "slurm or not slurm" tests/test_slurm.py

# Beside the peers, which only this needs; an hour and more on two cores.  ROUNDS=1 is quicker.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps hessian-eigenthings==1.0.0a5
	PYTHONPATH=. $(BIN)/python benchmarks/run.py $(or $(ROUNDS),3)
	PYTHONPATH=. $(BIN)/python benchmarks/hierarchy.py $(or $(ROUNDS),3)
	PYTHONPATH=. $(BIN)/python benchmarks/layers.py $(or $(ROUNDS),3)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules

# For maintainers: pin the newest versions that pyproject.toml admits (needs uv).
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --extra dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV) results .snakemake
