# make train and make test need only Python >= 3.11 and git: they create .venv first, and uv shows how far it is.
# UV_TORCH_BACKEND=cpu make train: PyTorch's build without CUDA, of a size of 1 GB in place of 6.
PYTHON ?= python3
RUN := .venv/bin/python
LOCKED = $(RUN) -m uv pip install --compile-bytecode --python $(RUN) --constraints requirements.lock \
	--build-constraints requirements.lock

.DEFAULT_GOAL := help
.PHONY: help install train test test-all mutations soak two-machines slurm doctor lint format docs lock tensorboard clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# Two stamps: what a run needs, and what tests, notebooks, exports and the docs need besides.
.venv/runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(LOCKED) -e .
	touch $@

.venv/installed: .venv/runtime
	$(LOCKED) -e '.[dev]'
	touch $@

install: .venv/installed ## create .venv with the locked versions, tests and tools included

train: .venv/runtime ## train on the bundled images, evaluate, print the table (ARGS="seed=2 ..." for options)
	$(RUN) train.py $(ARGS)

# bytecode is kept, of tests too: each worker and each process of a test would compile all that it imports
TESTS = env -u PYTHONDONTWRITEBYTECODE $(RUN) -m pytest -n auto --maxprocesses 4 --dist worksteal --durations 10 $(if $(ROOM),tests/$(ROOM))

test: .venv/installed ## the tests, but for the slow ones (ROOM=losses: of one folder of tests/)
	$(TESTS) -m "not slow" $(ARGS)

test-all: .venv/installed ## all tests (also ROOM=...)
	$(TESTS) $(ARGS)

mutations: .venv/installed ## switch off each protection of a run: does a test fail then? (ARGS="finite_check ...")
	$(RUN) tests/support/mutations.py $(ARGS)

soak: .venv/installed ## kill and resume runs at random (MINUTES=10)
	$(RUN) tests/support/soak.py $(or $(MINUTES),10)

two-machines: .venv/runtime ## train on two machines, played by this one, and break things (root; ARGS="cable")
	$(RUN) scripts/two_machines.py $(ARGS)

slurm: .venv/runtime ## train on a SLURM of two nodes, set up on this machine for it (root, slurm-wlm, munge)
	$(RUN) scripts/slurm_trials.py $(ARGS)

doctor: .venv/runtime ## is this machine ready?
	$(RUN) scripts/doctor.py

lint: .venv/installed ## style, format, types, and the direction of imports between rooms
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -c "from importlinter.cli import lint_imports_command as run; run()" --no-cache
	$(RUN) -m mypy

format: .venv/installed ## let ruff mend what it can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: .venv/installed ## the pages and the API reference, into build/docs/index.html
	$(RUN) -m mkdocs build --strict --config-file docs/mkdocs.yml

lock: ## requirements.lock anew from pyproject.toml: exact versions, no index addresses
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(RUN) -m uv pip compile --quiet --universal --upgrade --no-annotate --no-header --no-emit-index-url \
		--no-emit-find-links --extra dev --python-version 3.11 -o requirements.lock pyproject.toml

tensorboard: .venv/runtime ## watch runs/ and sweeps/ at http://localhost:6006 (LOGDIR=FOLDER: only these)
	mkdir -p build/tensorboard runs sweeps
	ln -sfn ../../runs build/tensorboard/runs
	ln -sfn ../../sweeps build/tensorboard/sweeps
	$(RUN) -m tensorboard.main --logdir $(or $(LOGDIR),build/tensorboard) $(ARGS)

clean: ## remove .venv, caches and build files; runs stay
	rm -rf .venv build dist .pytest_cache .ruff_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
