# Everything happens in .venv, which `make install` creates in the checkout. No target needs a GPU.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= data
# tests and small models gain nothing from OpenMP threads that wait for each other on a busy machine
THREADS ?= 1
# processes of `make test`; each takes up to 2 GB
JOBS ?= 2
# what has to run on the oldest Python of setup.py
CODE := occplug benchmarks pretraining tools tests setup.py .ci/wheel.py docs/site_hooks.py

.PHONY: install demo test slow lint types unit wheel snapshots tables docs notebooks bench clean

install: $(STAMP)

$(STAMP): setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# fewer epochs than the configs have, so that two cores are done in 8 minutes
demo: install
	$(BIN)/occplug compare --name demo --root $(DATA) \
	  --configs configs/clip_reid_synthocc.yaml configs/dpl_reid_synthocc.yaml --seeds 1 --jobs 2 \
	  method.stage1.epochs 10 method.stage2.epochs 5 method.stage2.steps "[4, 5]"

# everything that a change has to pass
test: lint types unit wheel

unit: install
	OMP_NUM_THREADS=$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# what `unit` leaves out: whole trainings under torchrun, every method on 4 processes
slow: install
	OMP_NUM_THREADS=$(THREADS) HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow

types: install
	$(BIN)/mypy

# the wheel, built from the sdist, installed into an empty environment and used outside the checkout
wheel: install
	$(BIN)/python .ci/wheel.py dist

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vermin --quiet --target=3.10- --violations --no-parse-comments $(CODE)

# tables and figures of the documents again, from the runs in docs/runs.jsonl; renders SynthOcc in data/ if it is not there
tables: install
	$(BIN)/occplug tables docs/results.md docs/ablations.md

# the documentation site, in site/
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# the notebooks, run from top to bottom in build/notebooks
notebooks: install
	rm -rf build/notebooks && mkdir -p build/notebooks && cp docs/notebooks/*.ipynb build/notebooks
	cd build/notebooks && HF_HUB_OFFLINE=1 ../../$(BIN)/python -m nbconvert --to notebook --execute --inplace *.ipynb

bench: install
	$(BIN)/python tools/benchmark.py

# what each config resolves to, after a base or a default was changed: the diff says which rows moved
snapshots: install
	$(BIN)/python -m tests.config.snapshots

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache
