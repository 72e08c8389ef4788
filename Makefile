# Two commands do everything: `make book` and `make test`. Both set up the environment if needed.
#
#   VENV=folder     the environment to use: the active one, else .venv
#   PYTHON=program  the interpreter that creates it
#   SOLUTIONS=0     `make book` builds the book without solutions, in _build/html_student

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV ?= $(or $(VIRTUAL_ENV),.venv)
PYTHON ?= $(or $(shell command -v python3.11),python3)
CELL_TIMEOUT := 600

# One file named after the content of what decides the environment: another content, another name.
CONTENT := $(shell cat pyproject.toml requirements.txt constraints.txt | cksum | tr ' ' -)
INSTALLED := $(VENV)/.installed-$(CONTENT)
PY := $(VENV)/bin/python

.PHONY: help book labs lab student test colab pages robust bench lint format stamp check links clean environment

help:  ## Show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

environment: $(INSTALLED)  ## Create or update the environment in $(VENV)

$(INSTALLED):
	@test -x $(PY) || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "the course needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=program ..." >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) \
	  || { echo "no environment in $(VENV): is Python's venv module installed?" >&2; exit 1; }
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "the environment $(VENV) has a Python older than 3.10: remove it, or name another with VENV=folder" >&2; exit 1; }
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' && exact="-c constraints.txt" || exact=; \
	  echo "installing into $(VENV): some minutes, if PyTorch is not there yet"; \
	  $(PY) -m pip install --quiet --disable-pip-version-check $$exact -e ".[book,test]"
	@rm -f $(VENV)/.installed-*
	@touch $@

book: labs  ## Execute the labs that changed and build the HTML book in _build/html
	$(PY) -m tools.book $(if $(filter 0,$(SOLUTIONS)),--without-solutions)

labs: $(INSTALLED)  ## Execute the labs that changed
	$(PY) -m tools.labs

lab: $(INSTALLED)  ## Execute one lab: make lab NAME=01_cost
	@test -n "$(NAME)" || { echo "which lab? make lab NAME=01_cost" >&2; exit 2; }
	$(PY) -m tools.labs $(NAME)

student: $(INSTALLED)  ## Write the labs without solutions to _build/student
	$(PY) -m tools.labs --student

test: $(INSTALLED)  ## Run every test that needs no network, and nbval on every lab
	$(PY) -m pytest labs tests --nbval-lax --nbval-current-env --nbval-cell-timeout=$(CELL_TIMEOUT) \
	  --numprocesses=logical --maxprocesses=4 --dist=loadfile

colab: $(INSTALLED)  ## Run a lab the way Colab does, in a new environment (needs a package index)
	$(PY) -m pytest tests/test_colab.py -m colab --numprocesses=2 --dist=worksteal

pages: book  ## Load every page in Chromium; screenshots in _build/screenshots
	$(PY) -m tools.pages --screenshots

robust: $(INSTALLED)  ## Run each lab five times, in random order and odd folders, and compare all numbers
	$(PY) -m tools.robust

bench: $(INSTALLED)  ## Speed beside named libraries: the datapath, k-means, Huffman decoding
	$(PY) tools/bench_sharing.py
	$(PY) tools/bench_datapath.py

lint: $(INSTALLED)  ## Format, lint and type checks, stamped labs, the data subset
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) tools/stamp.py --check

format: $(INSTALLED)  ## Format the code and the labs
	$(PY) -m ruff format
	$(PY) -m ruff check --fix
	$(PY) tools/stamp.py

stamp: $(INSTALLED)  ## Write setup cell and repository address into labs and pages
	$(PY) tools/stamp.py

check: lint book test colab  ## All of it: what CI runs
	$(PY) -m tools.pages

links: book  ## Ask every external link whether it answers (needs the network)
	$(PY) -m tools.book --links

clean:  ## Remove what was built; the environment stays
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
