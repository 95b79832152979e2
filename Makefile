# The course's commands. `make lab` and `make test` work from a fresh clone with only Python 3.11 present.
PYTHON ?= python3.11
BIN := .venv/bin
export TOKENIZERS_PARALLELISM = false

# tests side by side; each pins one thread
PROCESSES ?= 2

.PHONY: help lab test demo setup grade release assets site bench clean lint

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

lab: setup  ## set everything up and open the course in JupyterLab
	$(BIN)/course lab

test: setup lint  ## set everything up and run every test
	$(BIN)/python -m pytest --numprocesses $(PROCESSES)

demo: setup  ## grade the worked solutions and a flawed submission; no browser needed
	$(BIN)/python -m course_utils.demo

setup: .venv/.complete  ## create .venv with the tested versions and fetch the language model
	@$(BIN)/course assets --quiet

# written last, so that an interrupted installation is done again
.venv/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
		{ echo "Python 3.11 is needed: install it, or name it with make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy course_utils

SUBMISSIONS ?= submissions
grade: setup  ## grade a folder of submissions: make grade SUBMISSIONS=folder
	$(BIN)/course grade $(SUBMISSIONS)

release: setup  ## make the learner's notebooks from solutions/
	$(BIN)/course release

assets: setup  ## rebuild the shipped corpus and train the shipped autoencoders again (hours)
	$(BIN)/course assets --rebuild

SITE ?=
site: setup  ## the solved course as a static site, in site/: make site SITE="--quick --lessons 02"
	$(BIN)/python -m course_utils.site $(SITE)

bench: setup  ## measure speed and quality beside other libraries, tables in benchmarks/results/
	$(BIN)/python -m benchmarks

clean:  ## remove everything that make made, except .venv
	rm -rf build site .pytest_cache .mypy_cache .ruff_cache .hypothesis
