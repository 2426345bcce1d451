# oasst-megatron: every target does its own set-up (virtual environment, install) with python3, make and the package index.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
# An exact version: a plain `torch` may resolve to a build of several gigabytes for another device.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export OMP_NUM_THREADS ?= 1

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z_0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; set PYTHON=python3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, this is %d.%d; set PYTHON=..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

install: $(STAMP) ## create .venv and install everything, development tools included

demo: $(STAMP) ## [DATA=my.jsonl] [OUTPUT_DIR=...]: conversations -> shards -> two stages -> Hugging Face folder -> answers, on the CPU
	$(BIN)/python -W ignore -m examples.demo --output_dir $(or $(OUTPUT_DIR),output/demo) $(if $(DATA),--data $(DATA))

FAST_TESTS := -m "not slow and not long and not interop" --numprocesses 2 --dist worksteal
SLOW_TESTS := -m "slow and not ranks and not long and not interop" --numprocesses 2 --dist loadfile
# Several ranks use all cores themselves.
RANK_TESTS := -m "ranks and not long and not interop"
test: $(STAMP) ## the test suite
	$(BIN)/python -m pytest $(FAST_TESTS)
	$(BIN)/python -m pytest $(SLOW_TESTS)
	$(BIN)/python -m pytest $(RANK_TESTS)

test-fast: $(STAMP) ## the tests that launch no process and train nothing, under 90 seconds on two cores
	$(BIN)/python -m pytest $(FAST_TESTS)

test-long: $(STAMP) ## all other tests: four ranks, seeded faults, benchmarks, campaigns, compiled kernels; half an hour
	$(BIN)/python -m pytest -m "long and not interop"

interop: $(STAMP) ## tests with other packages: chat templates in trl; exports in transformers 4.46 and 4.49, Megatron-LM, lm-eval
	$(BIN)/python -m pip install --quiet --editable ".[interop,eval]"
	$(BIN)/python -m pytest -s tests/interop

parity: $(STAMP) ## the whole parity matrix of layouts, precisions, packing, dropout and recomputation
	PARITY=full $(BIN)/python -m pytest tests/megatron_train/test_parity.py tests/megatron_train/test_parity_edges.py

soak: $(STAMP) ## 2,000 iterations in one go and with twenty resumptions: equal losses, no leaks
	$(BIN)/python -W ignore -m tests.faults.soak $(if $(NPROC),--processes $(NPROC))

# Where the extra `fuzz` has no wheel, fuzzing runs without coverage.
faults: $(STAMP) ## [SEED=1] [SHARE=0.1]: kills, full disks, damage, hostile files, fuzzing; about two hours
	@$(BIN)/python -m pip install --quiet --editable ".[fuzz]" || echo "atheris cannot be installed here: fuzzing is blind" >&2
	$(BIN)/python -W ignore -m tests.faults --seed $(or $(SEED),1) --share $(or $(SHARE),1)

gpu-report: $(STAMP) ## one GPU, at most 8 minutes: kernels, parity, checkpoints, failures, memory, speed -> benchmarks/gpu/<device>.md
	$(BIN)/python -W ignore -m benchmarks.gpu_report

# Another version of megatron-core than the pinned one, in an environment of its own. It downloads torch again, up to 3 GB.
ENGINE ?= 0.19.2
ENGINE_VENV ?= .venv-engine
PYTHON312 ?= python3.12
ENGINE_TESTS ?= tests/megatron_train tests/checkpoint_convert
ENGINE_STAMP := $(ENGINE_VENV)/.installed-$(ENGINE)
$(ENGINE_STAMP): pyproject.toml
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 12))' 2>/dev/null || { echo "error: there is no Python 3.12 at $(PYTHON312), which megatron-core $(ENGINE) needs; set PYTHON312=..." >&2; exit 1; }
	test -x $(ENGINE_VENV)/bin/python || $(PYTHON312) -m venv $(ENGINE_VENV)
	$(ENGINE_VENV)/bin/python -m pip install --quiet "$(TORCH)"
	$(ENGINE_VENV)/bin/python -m pip install --quiet --editable ".[dev]"
	$(ENGINE_VENV)/bin/python -m pip install --quiet --no-deps "megatron-core==$(ENGINE)"
	@touch $@

engines: $(ENGINE_STAMP) ## [ENGINE=0.19.2] [PYTHON312=...] [ENGINE_TESTS=...]: the trainer's and converter's tests on a newer megatron-core
	$(ENGINE_VENV)/bin/python -m pytest $(ENGINE_TESTS)

audit: $(STAMP) ## list known vulnerabilities of the installed dependencies; needs the advisory service
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --skip-editable

check: $(STAMP) ## formatter, linter, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# TOKENIZER, DATA_DIR and OUTPUT_DIR are optional.
MIX_DATA := $(or $(DATA_DIR),data)
pretokenize: $(STAMP) ## MIX=oasst_pre10 [TOKENIZER=llama2] [DATA_DIR=data] [OUTPUT_DIR=...]: write the shards of a mix
	@test -n "$(MIX)" || { echo "error: name a mix: make pretokenize MIX=oasst_pre10 (sections in configs/pretokenize)" >&2; exit 2; }
	$(BIN)/python -m pretokenizer build --configs $(MIX) $(or $(TOKENIZER),llama2) --data_dir $(MIX_DATA) $(if $(OUTPUT_DIR),--output_dir $(OUTPUT_DIR))

clean: ## remove output, caches and the virtual environment
	rm -rf $(VENV) $(ENGINE_VENV) output/demo .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help install demo test test-fast test-long interop parity soak faults gpu-report engines audit check pretokenize clean

# The five published models: docs/cards.md. FLAGS are further flags of the trainer.
CARDS := $(BIN)/python -W ignore -m examples.cards
need_card = @test -n "$(CARD)" || { echo "error: name a card: make $@ CARD=llama2-70b-oasst-sft-v10 (configs/cards.yaml)" >&2; exit 2; }
stage_flags = --card $(CARD) $(if $(NPROC),--nproc $(NPROC)) $(if $(filter tiny,$(MODEL)),--tiny) $(if $(FLAGS),-- $(FLAGS))

stage1: $(STAMP) ## CARD=... [NPROC=8] [MODEL=tiny] [FLAGS=...]: print and run a card's first training run
	$(need_card)
	$(CARDS) stage stage1 $(stage_flags)

stage2: $(STAMP) ## CARD=... [NPROC=8] [MODEL=tiny] [FLAGS=...]: print and run a card's second training run
	$(need_card)
	$(CARDS) stage stage2 $(stage_flags)

cards: $(STAMP) ## [CARD=...]: every card in miniature: shards, training, export, an answer; CPU, offline
	$(CARDS) all $(if $(CARD),--card $(CARD)) $(if $(NPROC),--nproc $(NPROC))

simulate: $(STAMP) ## CARD=...: train in the card's topology, as CPU processes, with all of its layers made thin
	$(need_card)
	$(CARDS) simulate --card $(CARD)

need_folder = @test -n "$(HF_DIR)" || { echo "error: name an exported folder: make $@ HF_DIR=my-model" >&2; exit 2; }
sample: $(STAMP) ## HF_DIR="DIR ..." [PROMPTS=file.jsonl] [N=10]: continuations of 60 prompts in three configurations
	$(need_folder)
	$(BIN)/python -W ignore -m examples.sampling $(HF_DIR) $(if $(PROMPTS),--prompts $(PROMPTS)) $(if $(N),--n $(N))

# lm-eval brings many packages, so it is installed only for this target.
evaluate: $(STAMP) ## HF_DIR=... [CARD=...] [TASKS=arc_challenge,hellaswag,...] [LIMIT=100] [PLAIN=1]: lm-eval -> the model card
	$(need_folder)
	@$(BIN)/python -c "import lm_eval" 2>/dev/null || $(BIN)/python -m pip install --quiet --editable ".[eval]"
	$(BIN)/python -W ignore -m examples.evaluation $(HF_DIR) $(if $(CARD),--card $(CARD)) $(if $(TASKS),--tasks $(TASKS)) $(if $(LIMIT),--limit $(LIMIT)) $(if $(PLAIN),--plain)

page: $(STAMP) ## RUNS="CKPT_DIR ..." [HF_DIR=...] [SAMPLES="FILE ..."]: report.html, one page about a model
	@test -n "$(RUNS)" || { echo "error: name the --save folders: make page RUNS=\"checkpoints/stage1 checkpoints/stage2\"" >&2; exit 2; }
	$(BIN)/python -W ignore -m examples.page --runs $(RUNS) $(if $(HF_DIR),--hf $(HF_DIR)) $(if $(SAMPLES),--samples $(SAMPLES))

report: $(STAMP) ## CARD=... [HF_DIR=...] [RUNS="CKPT_DIR ..."] [SAMPLES="FILE ..."]: README.md and report.html of the exported model
	$(need_card)
	$(CARDS) report --card $(CARD) $(if $(HF_DIR),--hf $(HF_DIR)) $(if $(RUNS),--runs $(RUNS)) $(if $(SAMPLES),--samples $(SAMPLES))

.PHONY: stage1 stage2 cards simulate sample evaluate page report
