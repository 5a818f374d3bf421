# Two commands on a fresh machine: `make notebooks` and `make test`. Each sets up its own
# environment first. README.md shows the same steps for pip and for Windows.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two makes started together must not install into one environment at the same time.
LOCK := $(shell command -v flock >/dev/null 2>&1 && echo "flock .venv.lock")

# On Linux plain torch brings gigabytes for GPUs; name a CPU build where there is one.
TORCH ?= torch

.PHONY: notebooks test test-style test-units test-training test-chapters \
    test-units-and-training test-backends test-jax-networks test-jax-training test-torch \
    test-colab lab record results benchmarks environment clean

notebooks: environment
	$(BIN)/cifarlib data fetch
	$(BIN)/cifarlib run

# Two or three at a time, since most tests keep one core busy. The output of all but one comes when
# they end.
AT_ONCE := $(MAKE) --no-print-directory -j
SLOWEST := --durations=15
LATER = > build/$@.log 2>&1 || { cat build/$@.log; exit 1; }; tail -n 1 build/$@.log

test: environment
	$(BIN)/cifarlib data fetch
	@$(AT_ONCE) test-chapters test-units-and-training

test-style: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What is tested with every backend, apart from the rest.
NETWORK_TESTS := $(foreach name,models layered explain augmentation,tests/test_$(name).py)
TRAINING_TESTS := $(foreach name,views schedules optimizers whitening winograd compute runs \
    training experiments entries measuring staleness leaderboard claims,tests/test_$(name).py)

test-units: test-style
	$(BIN)/python -m pytest $(SLOWEST) $(addprefix --ignore=,$(NETWORK_TESTS) $(TRAINING_TESTS))

test-training: test-style
	@mkdir -p build
	$(BIN)/python -m pytest $(SLOWEST) $(NETWORK_TESTS) $(TRAINING_TESTS) $(LATER)

test-units-and-training:
	@$(MAKE) --no-print-directory -j1 test-units test-training

test-chapters: test-style
	@mkdir -p build
	CIFARLIB_PROFILE=quick $(BIN)/python -m pytest --nbval-lax --nbval-current-env notebooks $(LATER)

# The tests of training on the other two backends; on JAX in two halves, since that compiles each
# operation of each shape, here at least without optimising it.
ON_JAX := KERAS_BACKEND=jax XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/python -m pytest

test-backends: environment
	$(LOCK) $(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(LOCK) $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[backends]'
	@$(AT_ONCE) test-jax-networks test-jax-training test-torch

test-jax-networks: environment
	$(ON_JAX) $(NETWORK_TESTS)

test-jax-training: environment
	@mkdir -p build
	$(ON_JAX) $(TRAINING_TESTS) $(LATER)

test-torch: environment
	@mkdir -p build
	KERAS_BACKEND=torch $(BIN)/python -m pytest $(NETWORK_TESTS) $(TRAINING_TESTS) $(LATER)

# The chapters as Colab runs them, in an environment with its versions.
test-colab: environment
	$(BIN)/cifarlib data fetch
	$(BIN)/python tests/in_colab.py

lab: environment
	$(BIN)/jupyter lab notebooks

# Outputs and times that are committed: the quick run for its time, the full run for both. Each
# goes on after an interruption, in a folder of its own.
record: environment
	$(BIN)/cifarlib run --quick --record --output build/record-quick
	$(BIN)/cifarlib run --full --record --output build/record-full

# Whatever is not recorded yet, cheapest first; stops after BUDGET seconds and goes on next time.
BUDGET ?= 3600

results: environment
	$(BIN)/python benchmarks/networks.py --missing --time-budget $(BUDGET)

benchmarks: environment
	$(BIN)/python benchmarks/data.py --record
	$(BIN)/python benchmarks/grid.py --record
	$(BIN)/python benchmarks/linear.py --record
	$(BIN)/python benchmarks/prediction.py --record
	$(BIN)/python benchmarks/training.py --record
	$(BIN)/python benchmarks/assignments.py --record

environment:
	@# An environment does not survive that its folder is moved.
	@$(LOCK) sh -c 'if [ -e $(VENV)/.complete ] && [ "$$(cat $(VENV)/.complete)" != "$(CURDIR)" ]; then \
	    rm -rf $(VENV); fi'
	@$(LOCK) $(MAKE) -s --no-print-directory $(VENV)/.complete

# The mark is made last: an installation that was killed is done again.
$(VENV)/.complete: requirements.txt pyproject.toml
	@# The newest that TensorFlow has a release for.
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	    { echo "Python 3.11 to 3.13 is needed; name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Setting up $(VENV) with everything in requirements.txt (once, a few minutes) ..."
	@began=$$(date +%s) \
	    && $(PYTHON) -m venv $(VENV) \
	    && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e . \
	    && echo "$(CURDIR)" > $@ \
	    && echo "Environment ready in $$(( $$(date +%s) - began )) s"

# Somebody may have worked in what was released to build/assignments.
clean:
	find build -mindepth 1 -maxdepth 1 ! -name assignments -exec rm -rf {} + 2>/dev/null || true
	rm -rf $(VENV) .venv-colab
