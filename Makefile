# make test               ruff, ty and the tests
# make test-lowest        the tests with the oldest versions that pyproject.toml allows, in .venv-lowest
# make demo               train a small model from scratch, then search with it: 2 cores, about twelve minutes
# make demo MINUTES=0.2   the same with a few seconds of training, to see that everything runs
# make bench              speed and memory on this machine
# What the demo left the time before moves to runs/demo.old.
# Both make .venv if it is missing; they need Python >= 3.11 and a package index, nothing else.

PYTHON ?= python3
MINUTES ?= 8
DEMO_DIR ?= runs/demo
BIN := .venv/bin
INSTALLED := .venv/.installed
# one process with two threads: 190 pairs/s, two processes with one each: 140 to 180 (LOG.md)
LAUNCH := $(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --num_cpu_threads_per_process 2 \
	--mixed_precision no --dynamo_backend no

.PHONY: bench demo test test-lowest

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@echo "setting up .venv, which takes a minute or two"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	$(BIN)/python -m pytest

# uv resolves downwards, which pip cannot. On x86-64 it downloads 3 GB: the oldest torch is a CUDA build there.
.venv-lowest/.installed: pyproject.toml
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints.txt uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct \
		--editable '.[dev,tracking]'
	touch $@

test-lowest: .venv-lowest/.installed
	.venv-lowest/bin/python -m pytest

# The answers come from a new process that knows the model only by its folder.
demo: $(INSTALLED)
	@if [ -d $(DEMO_DIR) ]; then rm -rf $(DEMO_DIR).old && mv $(DEMO_DIR) $(DEMO_DIR).old; fi
	$(BIN)/ivt corpus check synthetic --split test
	$(LAUNCH) train_hf.py --config demo --output_dir $(DEMO_DIR) --max_minutes $(MINUTES) \
		--test_at_end false
	$(BIN)/python -m benchmarks.answer_queries $(DEMO_DIR)/best $(DEMO_DIR)/answers.png
	$(BIN)/ivt evaluate $(DEMO_DIR)/best --corpus synthetic --split test --output $(DEMO_DIR)/test.json
	@echo "answers to three queries: $(DEMO_DIR)/answers.png, training curves: $(DEMO_DIR)/curves.png"

# encoders and steps take all cores, the others one
bench: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks drawing views ranking cached_chunk
	$(BIN)/python -m benchmarks encoders steps
