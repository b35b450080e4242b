# On a machine with Python 3.11+ and make: everything else comes from the lock file, into .venv and .uv.
PYTHON ?= python3
UV := .uv/bin/uv
UV_VERSION := 0.13.9
BIN := .venv/bin

# Some images forbid Python to keep compiled modules; then each of the hundred processes of a test run compiles its own.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo up secrets test test-redis7 test-sdks test-page fuzz check format deploy-check fleet-check \
        image-check chaos bench bench-throughput \
        bench-limiter bench-places bench-polling bench-http bench-mirror bench-page bench-demo bench-stalls bench-today today-plot \
        page-pictures clean
help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Pixmill needs Python 3.11 or newer; set PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -m venv .uv || { echo "This Python has no venv module; on Debian: apt install python3-venv."; exit 1; }
	@.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.locked: $(UV) pyproject.toml packages/pixmill/pyproject.toml uv.lock
	@$(UV) sync --frozen --quiet --python "$$(command -v $(PYTHON))"
	@touch $@

setup: .venv/.locked  ## the environment, from the lock file

demo: setup  ## 40 product pictures under a quota, from a CSV, with nothing configured
	@$(BIN)/pixmill demo $(DEMO)

up: setup  ## everything in one process, until Ctrl-C
	@$(BIN)/pixmill up

# A test marked `timed` keeps to a quota in real time: on a busy machine its calls would arrive late for their slots.
test: setup  ## the test suite, on a real Valkey
	$(BIN)/pytest -n 4 -m "not timed" --ignore=tests/sdks --ignore=tests/page
	$(BIN)/pytest -n 2 -m timed $$(grep -rl "mark\.timed" tests --include="test_*.py")

# The oldest server of which a package is common; the rest of `make test` looks at what no server has a part in.
test-redis7: setup  ## what a Redis has a part in, on the redis-server of this machine instead of the Valkey
	@redis-server --version || { echo "This needs a redis-server; on Debian: apt install redis-server."; exit 1; }
	TEST_REDIS_SERVER="$$(command -v redis-server)" \
	  $(BIN)/pytest -n 2 -k "not fakeredis" tests/limiter tests/daemon tests/topologies --ignore=tests/daemon/demo/test_demo.py
	TEST_REDIS_SERVER="$$(command -v redis-server)" $(BIN)/pytest tests/e2e --ignore=tests/e2e/test_up.py

test-sdks: setup  ## the vendors' own SDKs, each in an environment of its own, against the simulator and the gateway
	$(BIN)/python -m tests.sdks.environments
	$(BIN)/pytest -n 2 -rs tests/sdks

test-page: setup  ## the page in a browser: views, keyboard, outages, accessibility (needs chromium)
	$(BIN)/pytest -n 2 -rs tests/page

secrets:  ## the passwords of compose.yaml, in deploy/secrets
	@sh deploy/secrets.sh

fuzz: setup  ## five minutes of right and wrong requests to a gateway, and its answers against its OpenAPI document
	$(BIN)/python -m tests.e2e.fuzz $(FUZZ)

image-check: setup  ## build the image on Debian's packages and run it: PID 1, SIGTERM, read-only root, user, health, size (10 minutes at first)
	$(BIN)/python -m tests.deploy.image_check

check: setup  ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

deploy-check: setup  ## what is in deploy/: rules, alerts and their tests, the dashboard, compose.yaml, Kubernetes, KEDA
	$(BIN)/pytest -rs tests/deploy/test_prometheus.py tests/deploy/test_deploy.py tests/deploy/test_kubernetes.py \
	  tests/deploy/test_scaling.py tests/deploy/test_fleet.py tests/docs/test_runbook.py

fleet-check: setup  ## a fleet in trouble: each panel with its value, each alert's state (2 minutes; FLEET="--break read-only")
	$(BIN)/python -m tests.deploy.fleet $(FLEET)

format: setup  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

chaos: setup  ## kills, stops, cuts and faults while 2,000 items run; then what must hold (10 minutes; CHAOS="--seed 1")
	$(BIN)/python -m benchmarks.chaos $(CHAOS)

bench: setup  ## what an item, a picture, a start and a long queue cost; fills in the figures of the pages (1 hour; BENCH="--only start")
	$(BIN)/python -m benchmarks $(BENCH)

bench-throughput: setup  ## drain 20,000 no-ops beside arq, docket, saq, streaq, taskiq-redis and a bare loop
	$(BIN)/python -m benchmarks.drain.throughput

bench-limiter: setup  ## keep to a provider's limits: five libraries, refusals, stalls, places, waits of 0 (1 hour)
	$(BIN)/python -m benchmarks.limiter
	$(BIN)/python -m benchmarks.limiter --only refusal --peers --repeats 20 --json benchmarks/out/refusals.json
	$(BIN)/python -m benchmarks.account.wait_zero
	$(BIN)/python -m benchmarks.account.stalls
	$(BIN)/python -m benchmarks.account.places

bench-places: setup  ## how well the places of an account are used while tasks are polled (15 minutes)
	$(BIN)/python -m benchmarks.account.places

bench-polling: setup  ## 5,000 tasks in flight on one replica: CPU, memory, polls under their quota (4 minutes)
	$(BIN)/python -m benchmarks.account.polling

bench-http: setup  ## the HTTP gateway: latency, rates, listeners, archive, previews; fills in docs/http.md (6 minutes)
	$(BIN)/python -m benchmarks --only http

bench-mirror: setup  ## pixmill mirror at 2,000 items a second, killed, and without PostgreSQL for a minute (5 minutes; needs postgresql)
	$(BIN)/python -m benchmarks.mirror $(MIRROR)

bench-page: setup  ## the page in a browser: first paint, long tasks, an event to its tile, 2,000 events in a minute (3 minutes)
	$(BIN)/python -m benchmarks.page

bench-demo: setup  ## ten demos on a busy machine with empty caches: none fails, and nine have no 429 (5 minutes)
	$(BIN)/python -m benchmarks.demo_busy

bench-stalls: setup  ## workers that are stopped at random moments: the provider still refuses nothing (10 minutes)
	$(BIN)/python -m benchmarks.account.stalls $(STALLS)

bench-today: setup  ## 100 pictures as people make them today, beside Pixmill: virtual time, then real time (12 minutes)
	$(BIN)/python -m benchmarks.today --real $(TODAY)

today-plot: setup  ## the plot and the tables of benchmarks/results/today.json anew, in docs and README
	$(UV) run --frozen --group plot python -m benchmarks.today.pages

page-pictures: setup  ## docs/pictures/page.png anew, after the page has changed
	$(BIN)/python -m tests.page.rig.pictures

clean:  ## remove what make made
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/.venv* benchmarks/out tests/sdks/.venvs .image
	find daemon limiter packages providers tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
