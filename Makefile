# Two commands matter: `make demo` and `make test`. Both install what they need first, from requirements.lock, into .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
UV := $(BIN)/uv
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NGINX := nginx libnginx-mod-http-brotli-filter libnginx-mod-http-brotli-static

.PHONY: nginx help install demo lab test slow faults soak lint format wheel bench fuzz lock clean

help:
	@echo "make demo     segment real images end to end; leaves pictures, tables and exports in segkit-demo/"
	@echo "make lab      JupyterLab with the notebooks, dashboards, notebook jobs and schedules"
	@echo "make test     run the tests, on real SQLite, PostgreSQL and Valkey servers"
	@echo "make slow     the tests that take minutes: an installed wheel, storms of kills, every page in a browser, a JupyterHub"
	@echo "make faults   kill, freeze, cut and fill up everything, hundreds of times; writes the table of docs/reliability.md"
	@echo "make soak     20 minutes of mixed load with faults; memory must stay flat (MINUTES=5 for less)"
	@echo "make lint     formatting, lint and types"
	@echo "make bench    every benchmark, quick form, with its peers"
	@echo "make fuzz     feed damaged images, headers and settings for 10 minutes (SECONDS=...)"
	@echo "make wheel    build the wheel into dist/"
	@echo "make lock     write requirements.lock anew from pyproject.toml"
	@echo "make clean    remove .venv and everything made"

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@echo "Installing into .venv from requirements.lock (about a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(UV) || $(BIN)/python -m pip install --quiet "uv>=0.9"
	@$(UV) pip sync --quiet --system-certs --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(UV) pip install --quiet --system-certs --python $(BIN)/python --no-deps --editable .
	@echo "Compiling segkit's kernels (half a minute, once)"
	@$(BIN)/python -c "from segkit import kernels; kernels.warm()"
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/segkit demo

lab: $(INSTALLED)
	@$(BIN)/segkit lab

test: $(INSTALLED)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

slow: $(INSTALLED)
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m slow tests

faults: $(INSTALLED)
	@rm -f artefacts/faults.jsonl
	@$(BIN)/python -m pytest -n 2 --dist load -m "faults or not faults" tests/faults
	@$(BIN)/python -m tests.faults.report

soak: $(INSTALLED)
	@$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),20)

lint: $(INSTALLED)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(INSTALLED)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Debian's, for tests/test_nginx.py, which skips without it. It is not started as a service.
nginx:
	@apt-get update --quiet && RUNLEVEL=1 apt-get install --yes --no-install-recommends $(NGINX)

bench: $(INSTALLED)
	@for name in ingest queue engine large accuracy; do echo "== benchmarks.$$name"; $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

fuzz: $(INSTALLED)
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600)

wheel: $(INSTALLED)
	@$(BIN)/python -m build --wheel --installer uv

lock:
	@test -x $(UV) || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet "uv>=0.9"; }
	@$(UV) pip compile --quiet --system-certs pyproject.toml --extra dev --extra slurm --universal --python-version 3.11 --generate-hashes \
		--no-annotate --custom-compile-command "make lock" --output-file requirements.lock
	@echo "requirements.lock is written; run make test"

clean:
	@rm -rf .venv dist build segkit-demo segkit-data artefacts .pytest_cache .ruff_cache .mypy_cache .hypothesis
