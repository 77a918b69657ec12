# `make demo` and `make test` set everything up by themselves on a machine with a bare Python 3.10 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
# Most tests wait for processes and brokers, so a few run side by side, in processes with a broker of their own.
PYTEST_ARGS ?= -n 3 --dist worksteal

# Python itself differs from version to version in what these test: pickling, processes, descriptors, logging, asyncio. The last ones go the
# whole way on the development broker. The unit tests show that nothing of the worker's core needs another version.
PYTHONS ?= 3.10 3.12 3.13
ON_EACH_PYTHON = tests/unit tests/system/children $(patsubst %,tests/broker/%.py,payloads/test_by_value payloads/test_codec \
	queue/test_configuration trust/test_signing failures/test_retries worker/test_worker)

.DEFAULT_GOAL := help
.PHONY: help demo test unit mutants test-pythons lint docs chaos fuzz bench bench-peers broker-wheel clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

# The demo needs a tenth of what the tests need: each has a mark of its own for what is installed.
$(VENV)/demo.done: setup.cfg setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[cli,broker]'
	touch $@

$(VENV)/test.done: setup.cfg setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/demo.done

demo: $(VENV)/demo.done  ## Run 200 jobs, good and bad, on an embedded broker
	$(BIN)/kq demo

test: lint  ## Run all tests, on the best broker that this machine has; and those that use one also on the development broker
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	EMBEDKQ_TEST_BROKER=embedded $(BIN)/python -m pytest $(PYTEST_ARGS) -m broker

unit: $(VENV)/test.done  ## Run the tests that need no broker and no process: they take seconds
	$(BIN)/python -m pytest -q $(PYTEST_ARGS) tests/unit $(ARGS)

mutants: $(VENV)/test.done  ## Change the worker's core in one place at a time, and list what no unit test notices: ARGS="backlog retries"
	$(BIN)/python tests/unit/mutants.py $(ARGS)

test-pythons: $(PYTHONS:%=test-python-%)  ## Run a quick part of the tests on each further Python that this machine has

test-python-%:
	@PATH="$$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$*.*/bin 2>/dev/null | tail -n 1):$$PATH"; \
	if python$* -c '' 2>/dev/null; then \
		PATH="$$PATH" $(MAKE) --no-print-directory PYTHON=python$* VENV=.cache/python$* quick; \
	elif [ "$$CI" = true ]; then \
		echo "no python$*, and in CI none is left out" >&2; exit 1; \
	else \
		echo "no python$* here: its tests are left out"; \
	fi

quick: $(VENV)/test.done
	EMBEDKQ_TEST_BROKER=embedded $(BIN)/python -m pytest $(PYTEST_ARGS) -p no:cacheprovider $(ON_EACH_PYTHON)

lint: $(VENV)/test.done  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/test.done  ## Build the guide and the API reference as HTML into build/docs
	rm -rf build/guide build/docs
	mkdir -p build/guide
	cp .docs/* embedkq/guide/*.rst build/guide
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/doctrees build/guide build/docs

chaos: $(VENV)/test.done  ## Workers and broker under random faults: SEED=1 DURATION=60 (seconds)
	PYTHONPATH=tests $(BIN)/python -m chaos --seed=$(or $(SEED),1) --duration=$(or $(DURATION),60)

fuzz: $(VENV)/test.done  ## Random input to all that reads any: COUNT=100000, DURATION=60 (seconds), SEED=1, ARGS="--only record"
	PYTHONPATH=tests $(BIN)/python -m fuzz --seed=$(or $(SEED),1) $(if $(COUNT),--count=$(COUNT)) $(if $(DURATION),--duration=$(DURATION)) $(ARGS)

bench: $(VENV)/test.done  ## Measure embedkq beside its floors: ARGS="--only latency --quick --json FILE"
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(VENV)/test.done  ## Measure embedkq beside other job queues, installed under .cache/peers
	PYTHONPATH=tests $(BIN)/python -m benchmarks.peers $(ARGS)

broker-wheel: $(VENV)/demo.done  ## Compile the development broker for Linux and macOS, a wheel each, into dist/: ARGS="linux-amd64"
	$(BIN)/python -m embedkq.broker.wheel dist $(ARGS)

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
