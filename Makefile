# Everything below works on a fresh machine: a target builds what it needs, in the tree.
#
#   make demo       clearway, uvloop and asyncio under load, with slow handlers, and a picture
#   make test       the tests and CPython's own asyncio tests, this Python
#   make test-preempt  the tests of sockets, files and real programs with every step over 1 ms suspended
#   make conformance-table  CPython's asyncio tests on every Python found here, published in docs/conformance.md
#   make test-all   the same on every Python from 3.11 to 3.14 found here
#   make lint       ruff, mypy, import layers
#   make bench      the benchmarks, with their bars
#   make clean      remove what these made

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    := out

# Passed on: make demo DEMO="--rounds 9", make test PYTEST="-k echo".
DEMO   ?=
PYTEST ?=
BENCH  ?= --quick

# Engines for CPython's tests. Where the kernel refuses io_uring, epoll alone is the whole truth.
ENGINES = $(shell $(BIN)/python -m clearway doctor --json 2>/dev/null | \
	grep -q '"engine": "uring"' && echo uring epoll || echo epoll)

SOURCES := pyproject.toml setup.py $(shell find src -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h')

.PHONY: demo test unit conformance conformance-table test-preempt test-all lint style types layers bench clean
.DELETE_ON_ERROR:

# One environment per interpreter, installed in place; a stamp per set of extras.
$(VENV)/.created:
	@PYTHON=$(PYTHON) .ci/system-packages
	$(PYTHON) -m venv $(VENV)
	@touch $@

define install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]'
	@touch $@
endef

$(VENV)/.demo: $(VENV)/.created $(SOURCES)
	$(call install,demo)

# The demo is tested too, and real programs on clearway.
$(VENV)/.test: $(VENV)/.created $(SOURCES)
	$(call install,test$(comma)demo$(comma)programs)

$(VENV)/.bench: $(VENV)/.created $(SOURCES)
	$(call install,bench)

# mypy and import-linter read the demo's and the tests' imports too, so they must be there.
$(VENV)/.lint: $(VENV)/.created $(SOURCES)
	$(call install,lint$(comma)test$(comma)demo$(comma)programs)

comma := ,

demo: $(VENV)/.demo
	$(BIN)/python -m clearway demo --json $(OUT)/demo.json --picture $(OUT)/demo.html $(DEMO)

test: unit conformance

unit: $(VENV)/.test
	@.ci/system-packages services
	@mkdir -p $(OUT)/test
	$(BIN)/python -m pytest --junitxml=$(OUT)/test/pytest.xml $(PYTEST)

conformance: $(VENV)/.test
	@mkdir -p $(OUT)/test
	@status=0; for engine in $(ENGINES); do \
		echo "CPython's own asyncio tests on clearway, $$engine:"; \
		$(BIN)/python -m tests.conformance --loop clearway --engine $$engine --batch \
			--json $(OUT)/test/conformance-$$engine.json || status=1; \
	done; exit $$status

# What a step overruns in is up to the machine: each run suspends other steps.
test-preempt: $(VENV)/.test
	@.ci/system-packages services
	@mkdir -p $(OUT)/test
	CLEARWAY_PREEMPT=on CLEARWAY_QUANTUM_MS=1 $(BIN)/python -m pytest --junitxml=$(OUT)/test/preempt.xml \
		tests/loop tests/streams tests/transfer tests/channels tests/files tests/programs $(PYTEST)

conformance-table:
	@.ci/conformance-table

test-all:
	@PYTHON=$(PYTHON) .ci/test-all

lint: style types layers

style: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.lint
	$(BIN)/mypy

layers: $(VENV)/.lint
	$(BIN)/lint-imports

# Each says itself which bars it meets; one that fails does not keep the others from being run.
bench: $(VENV)/.bench
	@status=0; \
	for part in "echo $(BENCH)" tls udp spawn preempt step_cost blocking channels copies files "serve $(BENCH)" "proxy $(BENCH)"; do \
		echo "== python -m benchmarks.$$part"; \
		$(BIN)/python -m benchmarks.$$part || status=1; \
	done; exit $$status

clean:
	rm -rf build dist $(OUT) .venv .venv-3.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache src/*.egg-info
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
	find src -name '*.so' -delete
	find src -name '*.pyx' -o -name '*.py' | sed 's/\.pyx\?$$/.c/' | xargs rm -f
