# Every target works on a fresh clone: the first one that needs it makes .venv.
#   make test PYTHON=python3.12 WORKERS=8

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest

# Models and data are built on the spot; nothing is fetched and nothing is reported.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo demo-all demo-probes test test-all test-lowest lint format bench figures early-warning pictures docs clean

help:
	@echo "make demo     train tiny models, one of which falls into the accuracy trap, and watch the guard"
	@echo "make demo-all seven kinds of fine-tuning, sound and broken, over three seeds (half an hour)"
	@echo "make demo-probes  every probe on those models, in one table (half an hour with the training)"
	@echo "make test     unit tests and doctests"
	@echo "make test-all the same with every architecture that transformers has (a quarter of an hour more)"
	@echo "make test-lowest  the demo and the hosts' tests on the lowest versions that pyproject.toml allows (another .venv)"
	@echo "make lint     ruff and pyright"
	@echo "make format   let ruff rewrite what it can"
	@echo "make bench    measure what guarding costs"
	@echo "make figures  draw the figures of the documentation again"
	@echo "make early-warning  does the alarm come in time? ten seeds, really trained (half an hour)"
	@echo "make pictures take the pictures of the documentation again, of what make demo left (needs Chromium)"
	@echo "make docs     write the API page from the docstrings, the cost table from the results"
	@echo "make clean    remove .venv and everything that was built"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,demo,peft]' -c constraints.txt
	@touch $@

demo: $(READY)
	$(BIN)/python -m reasoning_guard_demo

demo-all: $(READY)
	$(BIN)/python -m reasoning_guard_demo --all --seeds 0,1,2

demo-probes: $(READY)
	$(BIN)/python -m reasoning_guard_demo --probes --seeds 0,1,2

# One thread a worker: tiny models gain nothing from more, and workers would fight over the cores.
test: export OMP_NUM_THREADS := 1
test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-all: export OMP_NUM_THREADS := 1
test-all: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m ""

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,demo,peft]' -c constraints-lowest.txt
	@touch $@

# Without what newer models and newer hosts than those are tested on.
test-lowest: export OMP_NUM_THREADS := 1
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m reasoning_guard_demo
	$(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal tests/test_cli.py tests/test_lightning.py tests/test_trl_rewards.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m benchmarks.scoring --out benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.probes --out benchmarks/PROBES.md
	$(BIN)/python -m benchmarks.rewards --out benchmarks/REWARDS.md

figures: $(READY)
	$(BIN)/python -m benchmarks.figures

early-warning: $(READY)
	$(BIN)/python -m benchmarks.early_warning

pictures: $(READY)
	$(BIN)/python -m benchmarks.pictures

docs: $(READY)
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/make_costs.py

clean:
	rm -rf $(VENV) $(LOWEST) build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
