# Needs Python 3.11 or newer, pip and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
LOWEST := build/lowest
CASES ?= 10000
KILLS ?= 200
SEED ?= 0
# Tests start many processes: none compiles what another has compiled before.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help test quick test-all test-lowest coverage lint docs dist release-check demo bench gpu zoo fuzz clean

help: ## Show what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1	\2/p' Makefile

test: $(if $(ROOM),$(READY),lint) ## Check style and types, then run the tests; ROOM=prove runs those of tests/prove alone
	$(PYTEST) -m "not slow" $(ROOM:%=tests/%)

quick: $(READY) ## Run the first case of each test, for a quick look at one room: make quick ROOM=prove
	$(PYTEST) -m "not slow" --first $(ROOM:%=tests/%)

test-all: lint ## Check style and types, then run all tests, those too that take long and show what is rare
	$(PYTEST)

coverage: $(READY) ## Run the tests of make test, and tell what share of lines and branches they run, room by room; ROOM=prove those of one room
	$(PYTEST) -m "not slow" $(ROOM:%=tests/%) --cov --cov-report=json:build/coverage.json --cov-report=html:build/coverage-html
	$(RUN) -m tests.support.coverage_by_room build/coverage.json

lint: $(READY) ## Check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(READY) ## Build the pages as a site into build/site; a broken link or a page without a place ends it
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

dist: $(READY) ## Build wheel and sdist into build/dist
	$(RUN) -m build --outdir build/dist

release-check: $(READY) ## Install wheel and sdist, each in an empty environment, and grow, prove and load a checkpoint there
	$(RUN) -m tests.release

test-lowest: $(READY) ## Run the tests with the oldest versions that pyproject.toml allows; ROOM=prove runs those of one room
	$(RUN) -m uv venv --quiet --clear --python $(RUN) $(LOWEST)
	$(RUN) -m uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -r pyproject.toml --extra plot --extra transformers
	$(RUN) -m uv pip install --quiet --python $(LOWEST)/bin/python --no-deps -e .
	$(RUN) -m uv pip install --quiet --python $(LOWEST)/bin/python pytest pytest-xdist hypothesis pyte ruff mypy setuptools
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist worksteal -m "not slow" $(ROOM:%=tests/%)

demo: $(READY) ## Grow a small trained model, prove it, train it further: a few minutes on one CPU core
	$(RUN) docs/demo/run.py

bench: $(READY) ## Time growing a large model against copying its file, and training against a plain timm loop
	$(RUN) -m tests.bench.grow
	$(RUN) -W ignore -m tests.bench.finetune

gpu: $(READY) ## Show on a CUDA device what only one can show, in eight minutes; report in build/gpu
	$(RUN) -m tests.gpu

zoo: $(READY) ## Prove growtool on timm's model files and transformers' types; write docs/zoo.md, docs/transformers.md: two hours on one core; PART=1/6 proves a part; the last one writes them
	$(RUN) -m tests.zoo $(PART:%=--part %)
	$(RUN) -m tests.zoo.texts $(PART:%=--part %)

fuzz: $(READY) ## Damage files, plans, images and options, kill commands, and see how growtool ends: about an hour; SEED=1 tries others
	OMP_NUM_THREADS=1 $(RUN) -W ignore -m tests.fuzz --cases $(CASES) --seed $(SEED)
	OMP_NUM_THREADS=1 $(RUN) -W ignore -m tests.fuzz --kills $(KILLS) --seed $(SEED)

clean: ## Remove everything that make has made
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find growtool tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml tests/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "growtool needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing);" \
	       "name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c tests/constraints.txt -e '.[dev]'
	@touch $@
