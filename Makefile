# Needs Python 3.11 and make, and for `make backends` what tools/backends/build.py names.
# Everything is set up in folders of this one that git ignores.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP = -m pip install --quiet --disable-pip-version-check --no-input
BIN = .venv/bin
# They need no server, and no process of their own.
QUICK = tests/core tests/test_config.py tests/project/test_architecture.py

# Inputs for each parser.
FUZZ ?= 2000

# What to do where a test failed: nothing. See .ci/run.
RETRY ?= false

.PHONY: help demo quick test check types tests fuzz matrix backends backends2 test-backends torture lint-js bench scale foreign neighbours wheel lock docs dashboards clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

demo: .venv-demo/.done  ## The founding story on real sockets, as an engineer sees it
	@.venv-demo/bin/httptrace demo

quick: check types  ## In half a minute: lint, types, and the tests that need no server
	$(BIN)/python -m pytest -q $(QUICK) $(ARGS)

test: check types tests  ## Everything that must hold: lint, types, tests with coverage

check: .venv/.done  ## Lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.done  ## Strict types
	$(BIN)/mypy

lint-js: tools/eslint/node_modules/.done  ## The page's JavaScript: needs Node.js
	tools/eslint/node_modules/.bin/eslint --config tools/eslint/eslint.config.js --max-warnings 0 src/otel_httptrace/report/page

tests: .venv/.done  ## The tests, with branch coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n 2 --dist loadfile --ignore tests/torture $(ARGS) || $(RETRY)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report
	# These trace by themselves, and so does coverage.
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/torture || $(RETRY)

fuzz: .venv/.done  ## Every parser, and the receiver, with input that nobody would send: make fuzz FUZZ=100000
	HTTPTRACE_FUZZ=$(FUZZ) $(BIN)/python -m pytest -q -n 2 tests/fuzz -k whatever $(ARGS)

matrix: .venv/.done  ## The tests on every Python there is, of 3.10 to 3.14, with the newest and the oldest dependencies
	$(BIN)/nox --no-error-on-missing-interpreters $(ARGS)

backends:  ## The real programs for test-backends, in build/backends: needs Go and Node.js, once, for minutes
	@$(PYTHON) tools/backends/build.py

backends2:  ## Jaeger 2 beside them, for test-backends: ten minutes more of a processor
	@$(PYTHON) tools/backends/build.py jaeger2

test-backends: export HTTPTRACE_BACKENDS = $(CURDIR)/build/backends
test-backends: export HTTPTRACE_JAEGER = $(CURDIR)/build/backends/bin/jaeger
test-backends: .venv/.done backends  ## The tests with a real collector, Jaeger, Prometheus and DNS server
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/backends tests/report/test_jaeger.py $(ARGS) || $(RETRY)

torture: .venv/.done  ## All of tests/torture, for an hour or two; HTTPTRACE_TORTURE_SEED=7 for other dice
	HTTPTRACE_TORTURE=long $(BIN)/python -m pytest -q -n 2 tests/torture $(ARGS)

bench: .venv/.done  ## What it costs: time and memory
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/report.py

scale: .venv/.done backends  ## What it costs in a fleet: docs/scale.md again, in a quarter of an hour on a quiet machine
	$(BIN)/python benchmarks/exports.py --write
	$(BIN)/python benchmarks/fleet.py --write
	$(BIN)/python tools/make_docs.py

foreign:  ## The test suites of others, without us and with us: none may fail with us only
	@$(PYTHON) tools/foreign_suites.py $(ARGS)

neighbours: .venv/.done  ## Programs with other instrumentation in them, without us and with us: none may tell
	@$(PYTHON) tools/neighbours.py $(ARGS)

docs: .venv/.done  ## docs/*.md, from the code
	$(BIN)/python tools/make_docs.py

dashboards: .venv/.done  ## dashboards/*.json, from the code
	$(BIN)/python dashboards/httptrace.py

wheel: .venv/.done  ## dist/*.whl and dist/*.tar.gz
	rm -rf dist
	$(BIN)/python -m hatchling build

# Of one file for all Pythons, where the tests run on all; of 3.11 alone otherwise.
COMPILE = uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --no-header --no-annotate --only-binary :all:
UNIVERSAL = --universal --python-version 3.10

lock:  ## requirements/*.txt again, with uv
	$(COMPILE) pyproject.toml --extra cli --group build $(UNIVERSAL) -o requirements/demo.txt
	$(COMPILE) pyproject.toml --extra cli --group dev $(UNIVERSAL) -o requirements/dev.txt
	# The least that pyproject.toml asks for of everything, but for what only the tests ask for.
	uv pip compile -q requirements/oldest.in pyproject.toml --extra cli --extra instruments-any $(UNIVERSAL) \
		--resolution lowest-direct --no-deps --no-header --no-annotate --only-binary :all: \
		| sed '/^packaging==/d' > requirements/.constraints
	$(COMPILE) pyproject.toml --extra cli --group dev $(UNIVERSAL) -c requirements/.constraints \
		--override requirements/oldest-overrides.in -o requirements/oldest.txt
	# All but rich, of which httpx's own command line wants an older one.
	grep -oE '^[a-z0-9._-]+==[^\\]+' requirements/dev.txt | grep -v '^rich==' > requirements/.constraints
	$(COMPILE) requirements/foreign.in -c requirements/.constraints --python-version 3.11 -o requirements/foreign.txt
	$(COMPILE) requirements/foreign-urllib3.in -c requirements/.constraints --python-version 3.11 \
		-o requirements/foreign-urllib3.txt
	$(COMPILE) requirements/neighbours.in -c requirements/.constraints --python-version 3.11 -o requirements/neighbours.txt
	grep -oE '^[a-z0-9._-]+==[^ ]+' requirements/foreign.txt > requirements/.constraints
	$(subst --only-binary,--no-binary,$(COMPILE)) requirements/foreign-suites.in -c requirements/.constraints \
		--python-version 3.11 --no-deps -o requirements/foreign-suites.txt
	rm requirements/.constraints

clean:  ## Remove what was set up
	rm -rf .venv .venv-demo tools/eslint/node_modules build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.done: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python $(PIP) --require-hashes --only-binary :all: -r requirements/dev.txt
	$(BIN)/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

tools/eslint/node_modules/.done: tools/eslint/package.json tools/eslint/package-lock.json
	cd tools/eslint && npm ci --no-audit --no-fund --silent
	@touch $@

.venv-demo/.done: requirements/demo.txt pyproject.toml
	@echo "Setting up, once ..."
	@$(PYTHON) -m venv --clear .venv-demo
	@.venv-demo/bin/python $(PIP) --require-hashes --only-binary :all: -r requirements/demo.txt
	@.venv-demo/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
