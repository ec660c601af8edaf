# `make demo` and `make test` do all their own set-up; they need Python 3.11+ with pip, nothing else.
PYTHON ?= python3
BIN := .venv/bin
PIP := --quiet --disable-pip-version-check --no-compile -c constraints.txt
export RAY_USAGE_STATS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false
# Ray starts a process for every worker; without bytecode each would compile the sources again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test soak lint bench report lock clean

setup: .venv/ready

# torch goes first and pinned: a bare `torch` would be the CUDA build of several gigabytes.
# pip compiles every file on one core, for two minutes: compileall takes all cores and leaves out packages' tests.
# open_clip, a peer in tests, would draw in torchvision, which has no build beside a CPU-only torch.
# With a CPU-only torch, torchaudio's native libraries fail to load; `doctor --fix` removes them.
.venv/ready: pyproject.toml constraints.txt
	@echo "installing into .venv: torch, then about 200 packages, 3 GB in all; some minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP) torch
	$(BIN)/python -m pip install $(PIP) -e '.[test,video]'
	$(BIN)/python -m pip install $(PIP) --no-deps open_clip_torch
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/' .venv/lib || true  # some packages carry files of other Pythons
	$(BIN)/hilbert-ray doctor --fix
	@touch $@

demo: setup
	$(BIN)/python examples/demo.py --out out/demo

# Tests with Ray run in one process: they share one cluster, and some start another one, which Ray gives 30 s to come
# up. They often wait, and tests without Ray fill both cores meanwhile, at a low priority that leaves Ray its time.
test: setup
	@sh tests/install_system_packages.sh
	@PYTEST="$(BIN)/python -m pytest" sh tests/run.sh

soak: setup
	@sh tests/install_system_packages.sh
	$(BIN)/python -m pytest -m soak

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m bench

report: setup
	$(BIN)/hilbert-ray report --run out/demo/run

# Resolve every dependency afresh and pin what was chosen.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 -e '.[test,video]'
	.venv-lock/bin/python -m pip install --quiet --no-deps open_clip_torch
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt
	rm -rf .venv-lock

clean:
	rm -rf .venv out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
