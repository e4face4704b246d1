# `make demo` and `make test` do everything on a machine with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
FUZZ_RUNS ?= 200000
FUZZ_EXAMPLES ?= 20000
COVERAGE_TESTS ?= tests/unit tests/property tests/integration
SOURCES := $(shell find src -type f -not -name '*.pyc')
# pytest caches the tests that it compiles: 4 s of CPU for each process.
unexport PYTHONDONTWRITEBYTECODE
# Four processes for two cores, because tests wait for half of their time.
PYTEST := $(BIN)/python -m pytest -n 4 --dist loadgroup

.PHONY: demo help test test-slow test-all lint format docs requirements collector backends e2e-backends \
  e2e-backends-quick screenshot matrix coverage bench bench-quick bench-page memory fuzz redaction-figures crashes campaign \
  slow clean

demo: .venv/package ## Poll a simulated Segment for a day, and show what arrived
	@$(BIN)/faillog-otel demo
	@echo; echo 'The program is in .venv/bin:  export PATH="$$PWD/.venv/bin:$$PATH"'

help: ## List the targets
	@sed -n 's/^\([a-z][a-z0-9%-]*\):.*## /\1\t/p' Makefile | expand -t 22

# Two tiers of tests; PYTEST_ARGS="-n 0" runs them in one process.
#   fast: unit, property, integration and contract tests, and the main path of each feature end to end, with a
#         real Collector: at most four minutes on two cores.
#   slow: what is marked so (tests/support/tiers.py): kills and power loss, mixed faults, memory, the image,
#         benchmarks, other machines (mounts, users, networks), and the rest of each sweep of parameters whose
#         main cases are fast.
# Locally, tests with a browser are skipped until `make .venv/browser` has brought what drives it.
IN_CI := $(if $(CI),.venv/browser)

test: .venv/installed collector $(IN_CI) ## Run the fast tier of the tests
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: .venv/installed collector $(IN_CI) ## Run the slow tier
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-all: .venv/installed collector $(IN_CI) ## Run all tests
	$(PYTEST) $(PYTEST_ARGS)

matrix: .venv/installed ## Run the tests on each Python from 3.11 on that is installed; MATRIX_ARGS="-s tests-3.13 -- tests/unit"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nox $(MATRIX_ARGS)

coverage: .venv/installed ## What the unit, property and integration tests cover; COVERAGE_TESTS="tests" measures all
	@rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/python -m coverage run -m pytest -n 2 --dist loadfile --timeout 600 $(COVERAGE_TESTS) $(PYTEST_ARGS); \
	  code=$$?; $(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage report; exit $$code

lint: .venv/installed ## Formatter, linters, type checker
	$(BIN)/ruff format --check src tests docker noxfile.py
	$(BIN)/ruff check src tests docker noxfile.py
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/kubernetes-validate --strict --quiet docker/kubernetes.yaml
	PYTHONPATH=tests $(BIN)/python -m manifests.check -compose docker/compose.yaml -kubernetes docker/kubernetes.yaml

format: .venv/installed ## Let ruff format and mend
	$(BIN)/ruff format src tests docker noxfile.py
	$(BIN)/ruff check --fix src tests docker noxfile.py

collector: .venv/installed ## Build the OpenTelemetry Collector that the tests use (cached in ~/.cache)
	@PYTHONPATH=tests $(BIN)/python -m collector.build || [ -z "$$CI" ]

backends: .venv/installed ## Build Jaeger, VictoriaLogs, Prometheus and a viewer (ten minutes and more; cached in ~/.cache)
	@PYTHONPATH=tests $(BIN)/python -m backends.build

e2e-backends: backends .venv/browser ## What backends make of what is sent, with the configuration that users get
	$(BIN)/python -m pytest tests/backends $(PYTEST_ARGS)

e2e-backends-quick: .venv/installed ## The same with the backends that build in two minutes: VictoriaLogs and Prometheus
	@PYTHONPATH=tests $(BIN)/python -m backends.build victorialogs prometheus
	$(BIN)/python -m pytest tests/backends/test_victorialogs.py tests/backends/test_prometheus.py $(PYTEST_ARGS)

screenshot: .venv/installed .venv/browser ## The README's pictures: the page of failures, a trace in otel-desktop-viewer (needs Chromium)
	PYTHONPATH=tests $(BIN)/python -m support.page_picture docs/report.png
	@PYTHONPATH=tests $(BIN)/python -m backends.build desktop-viewer
	$(BIN)/python -m pytest tests/backends/test_browser.py --screenshot docs/trace.png $(PYTEST_ARGS)

docs: .venv/installed .venv/docs ## Build the documentation site into build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/installed ## Compare with the Collector and the SDK, by shape and length of the file
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: .venv/installed ## The same with small files, once: three minutes
	PYTHONPATH=tests $(BIN)/python -m benchmarks --events 20000 --shape-events 20000 --rounds 1 --lengths 20000 60000 --requests 200 \
	  $(BENCH_ARGS)

bench-page: .venv/installed ## Put the figures of the last `make bench` into the documentation
	PYTHONPATH=tests $(BIN)/python -m benchmarks.page build/bench/bench.json

memory: .venv/installed ## Peak memory for files of different lengths
	PYTHONPATH=tests $(BIN)/python -m benchmarks --parts lengths --lengths 20000 200000 1000000

fuzz: .venv/installed .venv/fuzz ## Files that nobody would write: hypothesis, then atheris where it has wheels
	PYTHONPATH=tests $(BIN)/python -m fuzz.with_hypothesis --examples $(FUZZ_EXAMPLES)
	PYTHONPATH=tests $(BIN)/python -m fuzz.with_atheris -runs=$(FUZZ_RUNS)

redaction-figures: .venv/installed ## How many made-up secrets leak, and how many ids are changed
	PYTHONPATH=tests $(BIN)/python -m support.generated_secrets

crashes: .venv/installed ## Kill the sidecar 200 times at random, in every phase, and at every call that changes something
	PYTHONPATH=tests $(BIN)/python -m campaign random-kills --size 200 $(CAMPAIGN_ARGS)
	PYTHONPATH=tests $(BIN)/python -m campaign every-call $(CAMPAIGN_ARGS)

campaign: .venv/installed ## All parts: kills, power loss, damage, full disks, much and long (hours); prints a table
	PYTHONPATH=tests $(BIN)/python -m campaign $(CAMPAIGN_ARGS)

campaign-%: .venv/installed ## One part: random-kills, every-call, power-loss, bit-flips, full-disk, ..., or `table`
	PYTHONPATH=tests $(BIN)/python -m campaign $* $(CAMPAIGN_ARGS)

slow: .venv/installed ## The short form of the campaign: some minutes
	PYTHONPATH=tests $(BIN)/python -m campaign --short --folder build/slow $(CAMPAIGN_ARGS)

requirements: .venv/uv ## Pin the dependencies of pyproject.toml, and uv, again
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make requirements" --no-annotate requirements/uv.in -o requirements/uv.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make requirements" pyproject.toml --extra isal -o requirements/run.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make requirements" --group build -o requirements/build.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make requirements" -c requirements/run.txt -c requirements/build.txt \
	  pyproject.toml --extra isal --group dev -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make requirements" --group fuzz -o requirements/fuzz.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make requirements" -c requirements/dev.txt \
	  --group browser -o requirements/browser.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make requirements" -c requirements/dev.txt \
	  --group docs -o requirements/docs.txt

clean:
	rm -rf .venv

.venv/uv: requirements/uv.txt
	@echo "Setting up .venv: an environment and uv, which installs into it ..." >&2
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

# What running needs, and what builds the wheel.
.venv/run: .venv/uv requirements/run.txt requirements/build.txt
	@echo "Setting up .venv: the packages that faillog-otel needs ..." >&2
	@$(BIN)/uv pip install -q --require-hashes -r requirements/run.txt -r requirements/build.txt
	@touch $@

# What tests, linters and benchmarks need besides.
.venv/dependencies: .venv/run requirements/dev.txt
	@echo "Setting up .venv: the tools for tests and linting ..." >&2
	@$(BIN)/uv pip install -q --require-hashes -r requirements/dev.txt
	@touch $@

.venv/browser: .venv/uv requirements/browser.txt
	@$(BIN)/uv pip install -q --require-hashes -r requirements/browser.txt
	@touch $@

.venv/docs: .venv/uv requirements/docs.txt
	@$(BIN)/uv pip install -q --require-hashes -r requirements/docs.txt
	@touch $@

.venv/fuzz: .venv/uv requirements/fuzz.txt
	@$(BIN)/uv pip install -q --require-hashes -r requirements/fuzz.txt
	@touch $@

# The package is installed as the wheel that users get, so that the tests test that.
.venv/package: .venv/run pyproject.toml README.md LICENSE $(SOURCES)
	@echo "Setting up .venv: faillog-otel ..." >&2
	@$(BIN)/uv pip install -q --no-deps --no-build-isolation --reinstall-package faillog-otel .
	@touch $@

.venv/installed: .venv/dependencies .venv/package
	@touch $@
