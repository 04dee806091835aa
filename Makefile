# make demo   the main job on the built-in sample, ends with a page of pictures
# make test   the tests                        make test-all   the slow ones too
# make check  format, lint, types, imports     make format     rewrite files to the house format
# make interop   our shards in the hands of other people's packages, in an environment of its own
# make docs   the documentation as a site, in site/, in an environment of its own
# make bench  how fast extraction is, on a quiet machine; a quarter of an hour, and its clips stay in bench/
# make bench-train    how fast a training step is beside the authors' way; ten minutes on two cores
# make bench-loader   how fast the loader is beside others, in an environment of their own (gigabytes); half an hour
#
# A fresh machine needs Python 3.11 or newer and make; everything else goes into .venv.
# TORCH_INDEX=https://download.pytorch.org/whl/cpu make env   picks another build of torch.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
INTEROP_VENV ?= .venv-interop
INTEROP := $(INTEROP_VENV)/bin
BENCH_VENV ?= .venv-bench
DOCS_VENV ?= .venv-docs
TORCH_INDEX ?=
# Tests run in so many processes at once, a file of tests in one of them; torch gets one thread in each, or they would wait for each other.
TEST_WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

.PHONY: env demo test test-all system interop check format bench bench-loader bench-train docs clean
.DELETE_ON_ERROR:

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Error: $(PYTHON) is older than 3.11; run make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: env
	$(BIN)/python tools/demo.py $(DEMO)

test: env system
	$(PYTEST)

test-all: env system
	$(PYTEST) -m "slow or not slow"

# A browser, a web server and iproute2 for the tests that open pages, read shards over http and train on two machines made of network
# namespaces, where nobody has to be asked for them; without them these tests skip and say so.
system:
	@packages="$$(command -v chromium >/dev/null || echo chromium fonts-dejavu-core) $$(command -v nginx >/dev/null || echo nginx-light) $$(command -v ip >/dev/null || echo iproute2)"; \
	test "$$packages" = "  " || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages >/dev/null; } \
	    || echo "missing here:$$packages; the tests that need them will skip"

interop: $(INTEROP_VENV)/.ready
	REQUIRE_INTEROP=1 $(INTEROP)/python -m pytest tests/interop tests/integration/test_loader_docs.py

$(INTEROP_VENV)/.ready: pyproject.toml constraints.txt tests/interop/requirements.txt
	test -x $(INTEROP)/python || $(PYTHON) -m venv $(INTEROP_VENV)
	$(INTEROP)/python -m pip install --quiet --upgrade pip
	$(INTEROP)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(INTEROP)/python -m pip install --quiet -c constraints.txt -e '.[extract,loader]' -r tests/interop/requirements.txt
	@touch $@

docs: $(DOCS_VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@echo "done: open site/index.html"

$(DOCS_VENV)/.ready: docs/requirements.txt
	test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet -r docs/requirements.txt
	@touch $@

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	$(BIN)/python tools/bench_extract.py --json bench-extract.json

bench-train: env
	$(BIN)/python tools/bench_train.py --json bench-train.json

bench-loader: env $(BENCH_VENV)/.ready
	$(BIN)/python tools/bench_loader.py --json bench-loader.json --peers-python $(BENCH_VENV)/bin/python

$(BENCH_VENV)/.ready: tools/bench_loader_requirements.txt
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH_VENV)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) --extra-index-url https://pypi.org/simple) -r tools/bench_loader_requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(INTEROP_VENV) $(BENCH_VENV) $(DOCS_VENV) site $(DEMO) bench bench-extract.json bench-loader.json bench-train.json dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
