# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-test cycle test lint unit sanity integration conformance e2e molecule chaos image build clean pod_setup.sh

PYTHON ?= python3
CLOUD ?= runpod
ARGS ?=
CHAOS ?=
CLOUDS := runpod
VENV := .venv
RUN_STAMP := $(VENV)/.requirements-run
TEST_STAMP := $(VENV)/.requirements

# Without byte code every start of Ansible compiles it anew, for twice the time.
unexport PYTHONDONTWRITEBYTECODE

# pip's variable for a local folder of wheels; uv reads another one.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifeq ($(strip $(UV_FIND_LINKS)),)
unexport UV_FIND_LINKS
endif

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z0-9_.-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  PYTHON=python3.12   the interpreter that makes $(VENV) (3.11 or later)'
	@echo '  CLOUD=runpod        the cloud that make cycle rehearses'
	@echo '  ARGS="-e k=v"       goes on to ansible-playbook'

setup: $(RUN_STAMP) ## Install what make cycle needs into .venv
setup-test: $(TEST_STAMP) ## Install everything, tests and lint included, into .venv

$(RUN_STAMP): requirements-run.txt
	@tests/tools/setup-venv.sh '$(PYTHON)' '$(VENV)' requirements-run.txt
	@touch '$@'

$(TEST_STAMP): requirements.txt requirements-run.txt
	@tests/tools/setup-venv.sh '$(PYTHON)' '$(VENV)' requirements.txt
	@touch '$(RUN_STAMP)' '$@'

cycle: ## Rehearse a whole cycle: rent, converge, push, train, collect, validate, give back
	@if [[ ' $(CLOUDS) ' != *' $(CLOUD) '* ]]; then \
	  echo 'make cycle: CLOUD=$(CLOUD) joins later; rehearsed so far: $(CLOUDS)' >&2; exit 2; fi
	@$(MAKE) --no-print-directory setup
	@echo 'Rehearsing a whole cycle on $(CLOUD): an emulator on this machine; nothing is paid.'
	@PODCYCLE_TYPED='make cycle' PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/ansible-playbook cycle.yml -e cloud=$(CLOUD) $(ARGS)

image: $(RUN_STAMP) ## Build the training image and try it in a container: ARGS="-e image_repo=me/chess -e image_backend=cpu"
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/ansible-playbook -i localhost, playbooks/image.yml $(ARGS)

pod_setup.sh: $(RUN_STAMP) ## Write the one file that sets a GPU machine up by itself
	@$(VENV)/bin/ansible-playbook -i localhost, playbooks/pod_setup.yml -e bootstrap_dest='$(CURDIR)/pod_setup.sh' $(ARGS)

test: $(TEST_STAMP) ## Run everything: lint, unit, sanity, integration, end to end
	@$(VENV)/bin/python tests/tools/run_tests.py

lint: $(TEST_STAMP) ## ruff, mypy, yamllint, ansible-lint (production)
	@$(VENV)/bin/python tests/tools/run_tests.py lint

unit: $(TEST_STAMP) ## Unit tests
	@$(VENV)/bin/python tests/tools/run_tests.py unit

sanity: $(TEST_STAMP) ## ansible-test sanity on the unpacked built archive
	@$(VENV)/bin/python tests/tools/run_tests.py sanity

integration: $(TEST_STAMP) ## Every module through the twelve steps; every example
	@$(VENV)/bin/python tests/tools/run_tests.py integration

conformance: $(TEST_STAMP) ## The providers' own packages see the same world as our drivers
	@$(VENV)/bin/python tests/tools/run_tests.py conformance

e2e: $(TEST_STAMP) ## The end-to-end cycles
	@$(VENV)/bin/python tests/tools/run_tests.py e2e

# The platforms of `make molecule`: both bases, as containers and with systemd.
PLATFORMS ?= debian12 debian12-systemd debian13 debian13-systemd
SCENARIOS ?=

molecule: $(TEST_STAMP) ## Every role in Docker on every base, with and without systemd
	@$(VENV)/bin/python extensions/molecule/containers.py engine
	@$(VENV)/bin/python tests/tools/molecule_all.py --jobs 1 --platforms '$(PLATFORMS)' $(SCENARIOS)

chaos: $(TEST_STAMP) ## Every call times every fault, every crash: up to an hour, into docs/reliability.md
	@PYTHONPATH=tests:.collections:extensions $(VENV)/bin/python -m chaos $(CHAOS)

build: $(RUN_STAMP) ## Build the collection archive into .build
	@$(VENV)/bin/ansible-galaxy collection build --force --output-path .build .

clean: ## Remove .venv and .build (a running rehearsal keeps .state)
	@rm -rf '$(VENV)' .build
