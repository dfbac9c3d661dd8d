# The words that humans, hooks and CI share. `make` alone lists them.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FUZZ_INSTALLED := $(VENV)/.fuzz-installed
DOCS_VENV := .venv-docs
DOCS_INSTALLED := $(DOCS_VENV)/.installed
KERNELS_VENV := .venv-kernels
KERNELS_INSTALLED := $(KERNELS_VENV)/.installed
ARGS ?=

# uv does not read pip's settings: where pip is told to look, and whom to trust, is passed on.
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX ?= $(if $(UV_INDEX_URL),$(UV_INDEX_URL),$(PIP_INDEX_URL))
endif
ifneq ($(PIP_CERT),)
export SSL_CERT_FILE ?= $(PIP_CERT)
endif

# Many containers set it. Every process then compiles all that it imports: Prefect, MLflow and
# TensorFlow take 17 s of a processor instead of 7.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## make .venv from the hashed lock, with `ecg` on its path

.PHONY: run
run: $(INSTALLED) ## start everything, train, release, and serve until Ctrl-C
	@$(BIN)/ecg up

.PHONY: demo-loop
demo-loop: $(INSTALLED) ## show the loop that learns, in minutes; ARGS="--keep" to look around after it
	@$(BIN)/ecg demo loop $(ARGS)

.PHONY: down
down: $(INSTALLED) ## end what `make run` started in another shell
	@$(BIN)/ecg down

# Threads of a matrix product wait for each other by spinning. On two cores with three workers, a
# drift check takes 0.20 s of a processor instead of 0.06.
test check test-postgres faults: export OPENBLAS_NUM_THREADS ?= 1

.PHONY: test
test: $(INSTALLED) ## run the tests; ARGS="-m 'not slow'" goes to pytest
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# A test that leaves its log open leaves a socket to the collector here, and with SQLite nothing.
.PHONY: test-postgres
test-postgres: $(INSTALLED) ## run the tests of the stores, and the platform, on a PostgreSQL of their own
	$(BIN)/python -m pytest --postgres -W "ignore::pytest.PytestUnraisableExceptionWarning" \
		$(POSTGRES_TESTS) $(ARGS)

POSTGRES_TESTS := tests/postgres tests/ecg_lib/operations \
	tests/flows/training/workers/test_trial_queue.py tests/flows/training/workers/test_search_space.py \
	tests/flows/training/workers/test_retrying_storage.py tests/scenario

.PHONY: scenario
scenario: $(INSTALLED) ## run the pipeline on PostgreSQL and S3 while machines are killed, and compare champions
	$(BIN)/python -m tests.scenario $(ARGS)

.PHONY: test-containers
test-containers: $(INSTALLED) ## start each container's command with its variables, without an engine
	$(BIN)/python -m pytest --containers tests/flows/local/test_containers_start.py \
		tests/flows/local/test_container_files.py tests/flows/local/space $(ARGS)

.PHONY: bench-holter
bench-holter: $(INSTALLED) ## analyse a day of one lead; ARGS="--bundle DIR" for another model
	$(BIN)/python benchmarks/bench_holter.py $(ARGS)

.PHONY: bench-live
bench-live: $(INSTALLED) ## leads that stream: how near to recordings, and what one costs; set ECG_MITDB_DIR
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/bench_live.py $(ARGS)

.PHONY: bench-scale
bench-scale: $(INSTALLED) ## analyse recordings with 1 and 2 processes, and model a million; ARGS="--recordings 32"
	$(BIN)/python benchmarks/bench_scale.py $(ARGS)

.PHONY: bench-live-service
bench-live-service: $(INSTALLED) ## stream simulated leads to one process; ARGS="--leads 100 --seconds 60"
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/bench_live_service.py $(ARGS)

.PHONY: bench-runs
bench-runs: $(INSTALLED) ## what the limit of runs of V rejects, chosen without each person
	$(BIN)/python benchmarks/bench_runs.py

.PHONY: wrong-rates
wrong-rates: $(INSTALLED) ## count readings at wrong rates without a doubt; ARGS="mitdb=DIR svdb=DIR ludb=DIR"
	$(BIN)/python benchmarks/wrong_rates.py $(ARGS)

.PHONY: drift-power
drift-power: $(INSTALLED) ## power and false alarms of the drift check; set ECG_MITDB_DIR and ECG_SVDB_DIR
	$(BIN)/python benchmarks/drift_power.py $(ARGS)

.PHONY: gate-power
gate-power: $(INSTALLED) ## how often the promotion gate takes chance for a gain; set ECG_MITDB_DIR
	$(BIN)/python benchmarks/gate_power.py $(ARGS)

.PHONY: bench
bench: $(INSTALLED) ## measure the service beside others; ARGS="--bundle DIR --rounds 5"
	$(BIN)/python benchmarks/bench_service.py $(ARGS)

.PHONY: soak
soak: $(INSTALLED) ## ten minutes at 80 % of the greatest throughput; ARGS="--minutes 60"
	$(BIN)/python benchmarks/soak_service.py $(ARGS)

.PHONY: fuzz
fuzz: $(FUZZ_INSTALLED) ## 100,000 odd cases in all, for endpoints, decoders and readers of files
	$(BIN)/python benchmarks/fuzz_service.py $(ARGS)

.PHONY: fuzz-readers
fuzz-readers: $(INSTALLED) ## 20,000 odd files for each reader: cases, findings, memory, slowest
	$(BIN)/python benchmarks/fuzz_readers.py --each --cases 20000 $(ARGS)

.PHONY: faults
faults: $(INSTALLED) ## inject the faults of docs/how-to/faults.md and print the times of recovery
	$(BIN)/python -m pytest -s -q tests/faults tests/flows/local/running $(ARGS)

.PHONY: check
check: lint ## lint and the pure tests, in a minute: what to run before each commit
	$(BIN)/python -m pytest -n auto -m "not slow and not data" -q $(PURE_TESTS) $(ARGS)

PURE_TESTS := tests/ecg_lib tests/repository tests/docs/test_site.py tests/test_architecture.py

.PHONY: lint
lint: $(INSTALLED) ## check style, types, directions of import and prose
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/python tests/repository/prose.py
	$(BIN)/mypy

.PHONY: audit
audit: $(INSTALLED) ## ask the package index for known advisories of the locks; ARGS="--accept GHSA-..."
	$(BIN)/python tests/repository/audit.py $(ARGS)

.PHONY: docs
docs: $(INSTALLED) $(DOCS_INSTALLED) ## build the documentation in site/; a warning is an error
	$(BIN)/python docs/tools/make_reference.py
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	$(BIN)/python docs/tools/close_site.py site

.PHONY: kernels
kernels: $(INSTALLED) $(KERNELS_INSTALLED) ## compile the C of the signal path for all systems; ARGS=--check compares
	$(BIN)/python tests/repository/build_kernels.py $(ARGS)

.PHONY: mutants
mutants: $(INSTALLED) ## change the deciding code in small ways; its tests must fail; ARGS="risk --sample 20"
	$(BIN)/python tests/repository/mutants.py $(ARGS)

.PHONY: format
format: $(INSTALLED) ## format, and mend what can be mended
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Compiling starts from the locks that are there: versions move only where pyproject.toml asks, or
# with ARGS=--upgrade. It needs the environment, not that it is up to date.
.PHONY: lock
lock: | $(BIN)/uv ## write the locks from pyproject.toml; ARGS=--upgrade for newest versions
	$(BIN)/uv pip compile pyproject.toml --extra scale --group dev --output-file requirements.lock $(LOCK_FLAGS) $(ARGS)
	$(BIN)/uv pip compile --group serving --constraint requirements.lock \
		--output-file requirements-serving.lock $(LOCK_FLAGS) $(ARGS)
	$(BIN)/uv pip compile --group fuzz --constraint requirements.lock \
		--output-file requirements-fuzz.lock $(LOCK_FLAGS) $(ARGS)
	$(BIN)/uv pip compile --group docs --constraint requirements.lock \
		--output-file requirements-docs.lock $(LOCK_FLAGS) $(ARGS)
	$(BIN)/uv pip compile --group kernels --output-file requirements-kernels.lock $(LOCK_FLAGS) $(ARGS)

LOCK_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: clean
clean: ## remove the environment and caches; var/ stays
	rm -rf $(VENV) $(DOCS_VENV) $(KERNELS_VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
	find ecg_lib flows bentos tests -name __pycache__ -type d -prune -exec rm -rf {} +

# hatchling comes from the lock as well, so nothing is fetched to build the project.
$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# What only `make fuzz` needs is installed when it is asked for.
$(FUZZ_INSTALLED): requirements-fuzz.lock $(INSTALLED)
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements-fuzz.lock
	@touch $@

# The generator of the site does not share an environment with what it documents.
$(DOCS_INSTALLED): requirements-docs.lock | $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(DOCS_VENV)
	$(BIN)/uv pip install --python $(DOCS_VENV)/bin/python --require-hashes -r requirements-docs.lock
	@touch $@

# The compiler takes 400 MB and is needed only to change the C.
$(KERNELS_INSTALLED): requirements-kernels.lock | $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(KERNELS_VENV)
	$(BIN)/uv pip install --python $(KERNELS_VENV)/bin/python --require-hashes -r requirements-kernels.lock
	@touch $@

# uv is installed by pip in the version and with the hashes of the lock.
$(BIN)/uv: | $(BIN)/python
	@sed -n '/^uv==/,/^[^ ]/{/^uv==/p;/^    --hash/p;}' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r $(VENV)/uv.lock

$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3 python; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
			"$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
			exit 0; \
		fi; \
	done; \
	echo "Python 3.11 is needed and was not found as $(PYTHON), python3.11, python3 or python;" \
		"name it with: make PYTHON=/path/to/python3.11 ..." >&2; \
	exit 1
