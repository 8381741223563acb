# Every target works from a fresh checkout: what needs the environment makes it first.

PYTHON ?= python3
WORKERS ?= auto

PYTEST = .venv/bin/pytest -n $(WORKERS) --maxprocesses 8 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lock clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
	@echo "Set-up uses uv if it is there, else pip. PYTHON=python3.12 chooses another interpreter."

setup: .venv/.ready  ## make .venv with the locked dependencies

demo: .venv/.ready  ## a whole study with the embedded subject: no key, no network
	.venv/bin/ablate demo

test: .venv/.ready  ## lint, types, tests; the tests build the wheel and run it on its own
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PYTEST) -m "not slow"

test-slow: .venv/.ready  ## only the tests marked slow
	$(PYTEST) -m slow

lock:  ## bring both lock files up to date with pyproject.toml (needs uv)
	@uv --version >/dev/null 2>&1 || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	uv lock
	uv export --frozen --quiet --no-emit-project --no-header --format requirements-txt --output-file requirements.lock

clean:  ## remove the environment, caches and builds
	rm -rf .venv build dist ablate-demo .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +

# .ready holds the folder it was made in, because the scripts of an environment do not survive a move.
# installed.lock is there only if pip made the environment, and holds what pip installed: uv leaves no
# pip behind, so neither tool goes on with what the other one made.
ifneq ($(shell cat .venv/.ready 2>/dev/null),$(CURDIR))
.PHONY: .venv/.ready
endif

.venv/.ready: pyproject.toml uv.lock requirements.lock
	@if [ -e .venv/.ready ] && [ "$$(cat .venv/.ready)" != "$(CURDIR)" ]; then rm -rf .venv; fi
	@if uv --version >/dev/null 2>&1; then $(with_uv); else $(with_pip); fi
	@echo "$(CURDIR)" >.venv/.ready

# A Python that was asked for by name goes for uv too; otherwise uv finds one itself.
define with_uv
	if [ -e .venv/installed.lock ]; then rm -rf .venv; fi; \
	echo "setting up .venv with uv"; \
	UV_PROJECT_ENVIRONMENT=.venv uv sync --frozen --compile-bytecode \
		$(if $(filter file,$(origin PYTHON)),,--python "$(PYTHON)")
endef

define with_pip
	set -e; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "ablate needs Python 3.11 or newer: install it, then name it: make setup PYTHON=python3.12" >&2; \
		exit 1; }; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments: install python3-venv (Debian, Ubuntu) or uv" >&2; \
		exit 1; }; \
	if ! cmp -s requirements.lock .venv/installed.lock; then \
		echo "setting up .venv with pip (one to three minutes)"; \
		$(PYTHON) -m venv --clear .venv; \
		.venv/bin/pip install -qq --require-hashes -r requirements.lock; \
		cp requirements.lock .venv/installed.lock; \
	fi; \
	.venv/bin/pip install -qq --no-deps --no-build-isolation --editable .
endef
