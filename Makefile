# Everything a user or contributor runs. `make` alone explains itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Stages are started as `python -m stages.x`: the environment's python must be the first one found.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
export NO_MKDOCS_2_WARNING := 1

# Intervals, digests of files and what no training reads: they would fill hundreds of columns.
NOT_SHOWN := .*_(low|high)$$|(pipeline|stages|data)/.*|custom|sweep\..*
# In the order of tests/conftest.py; two processes that each compute with all cores would wait for each other.
TWO_FILES := OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help
.PHONY: help setup repro preset register card classify compare lineage prune serve sweep exps glue glue-zip test test-slow lint format docs doctor bench ui

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with every pinned package (done by the other targets when needed)

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV): a few minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[sample,dev]'
	@touch $(STAMP)

repro: $(STAMP) ## Run the pipeline: only stages whose inputs, params or code changed
	@python -m pipeline.params
	dvc repro
	@python -m pipeline.next_steps

doctor: $(STAMP) ## What this machine has, what params.yaml will use, what will go wrong; ARGS=--json for programs
	@python -m stages.doctor $(ARGS)

preset: $(STAMP) ## Set params.yaml up for a task: NAME=mrpc, perhaps SET="fetch.path=/data/glue"; no NAME lists them
	@python -m stages.preset $(NAME) $(SET)

register: $(STAMP) ## Register the model in MLflow with a model card; FORCE=1: even if the one before is better
	@python -m stages.register $(if $(FORCE),--force)

card: $(STAMP) ## Write the model card alone: data/reports/model_card.md
	@python -m stages.card

classify: $(STAMP) ## Classify lines of standard input: echo "a text" | make classify, perhaps MODEL=runs:/<run_id>
	@python -m stages.classify $(if $(MODEL),--model $(MODEL))

compare: $(STAMP) ## Compare two trainings: A= and B= (experiment, commit, run or workspace), perhaps HTML=out.html
	@python -m stages.compare "$(A)" "$(B)" $(if $(HTML),--html "$(HTML)")

lineage: $(STAMP) ## From a file of predictions back to the raw data, all verified: WHAT=data/predictions/test.jsonl
	@python -m stages.lineage "$(WHAT)"

prune: $(STAMP) ## What checkpoints take; DELETE=1 deletes those of finished trainings
	@python -m stages.prune $(if $(DELETE),--delete)

serve: $(STAMP) ## Serve the model over HTTP, with a page to try it; perhaps MODEL=models:/<name>@<alias> HOST= PORT=
	@python -m stages.serve $(if $(MODEL),--model $(MODEL)) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

sweep: $(STAMP) ## Search for the best params, see docs/sweeps.md; ARGS=--dry-run says what would run, ARGS=--write-best
	@python -m stages.sweep $(ARGS)

exps: $(STAMP) ## DVC's experiments side by side: scores, and the params that differ; ARGS= more for dvc exp show
	@dvc exp show --only-changed --no-pager --drop '$(NOT_SHOWN)' $(ARGS)

glue: $(STAMP) ## Hours: tables of GLUE's tasks, ours and Trainer, in docs/results.md; DATA= a folder, else the hub; ARGS= more
	@python -m benchmarks.glue --trainer $(if $(DATA),--data $(DATA)) $(ARGS)

glue-zip: $(STAMP) ## Collect GLUE submission files of all tasks into submission.zip; FROM= names files that go first
	@python -m stages.glue_zip $(FROM)

test: $(STAMP) ## Run the tests, two files at a time
	$(TWO_FILES) -m "not slow"

test-slow: $(STAMP) ## Run the tests that take minutes each, two files at a time
	$(TWO_FILES) -m slow

lint: $(STAMP) ## Check style and types, and that the docs' site can be built
	ruff check .
	ruff format --check .
	mypy
	mkdocs build --site-dir $(VENV)/.site

format: $(STAMP) ## Fix style
	ruff check --fix .
	ruff format .

docs: $(STAMP) ## Build the docs' site: open site/index.html
	mkdocs build

bench: $(STAMP) ## Measure speed and memory in three quarters of an hour; tables go into docs/benchmarks.md
	@python -m benchmarks

ui: $(STAMP) ## Compare runs in the browser
	mlflow ui
