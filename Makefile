# Needs only Python >= 3.11, make and a package index.
PYTHON ?= python3
BIN := .venv/bin
# Two test processes of one thread each: more threads than cores slow torch down several times.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

help:  ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

# The GAN and the flows need nothing of each other: a process of one thread for each of the two.
demo: .venv/ready  ## train a small Glow, a small GAN and a Gaussian on drawn faces, recover held-out ones (minutes, CPU, offline)
	@mkdir -p runs
	@export OMP_NUM_THREADS=1; \
	$(BIN)/python train.py fit --config configs/demo_gan.yaml >runs/demo-gan.log 2>&1 & gan=$$!; \
	trap "kill $$gan" INT TERM; \
	echo "Training the GAN beside the others: runs/demo-gan.log"; \
	$(BIN)/python train.py fit --config configs/demo_gaussian.yaml && \
	$(BIN)/python train.py fit --config configs/demo.yaml || { kill $$gan; exit 2; }; \
	wait $$gan || { tail -n 3 runs/demo-gan.log; exit 2; }
	$(BIN)/python -m report runs/demo runs/demo-gaussian runs/demo-gan

quick: .venv/ready  ## recover drawn faces through the published priors (seconds, CPU, offline)
	$(BIN)/python evaluate.py --config configs/evaluate/quick.yaml

test: .venv/ready  ## all tests
	$(PYTEST)

check: lint  ## lint and fast tests: before every commit
	$(PYTEST) -m "not slow" -q

lint: .venv/ready  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: .venv/ready  ## what docs/performance.md, peers.md and solvers.md measure, by name
	$(BIN)/python -m benchmarks

format: .venv/ready  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and caches; keeps runs/ and data/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache *.egg-info

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: help demo quick test check lint bench format clean
.DEFAULT_GOAL := help
