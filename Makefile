# Everything from git, make and Python: `make run` and `make test` set up what they need in $(VENV).
PYTHON  ?= python3
VENV    ?= .venv
OUT     ?= study_out
WORKERS ?=
ARGS    ?=
PYTEST  ?=
PORT    ?= 8000

BIN   := $(VENV)/bin
PY    := $(BIN)/python
META  := settings.ini setup.py pyproject.toml
# one thread per worker: that is what the stored outputs were computed with, and it leaves the cores to the workers
ONE   := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
NBDEV_WORKERS := $(if $(WORKERS),--n_workers $(WORKERS),)

.DEFAULT_GOAL := help
.PHONY: help run test notebooks slow lab docs docs-serve bench readme export lint clean distclean

help: ## this list
	@echo "precond: one network, many lenses. First things first: make run, make test"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  variables: PYTHON=$(PYTHON) VENV=$(VENV) OUT=$(OUT) ARGS='options of precond study' PYTEST='options of pytest'"

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3,11) <= sys.version_info[:2] <= (3,13) else "make: need Python 3.11, 3.12 or 3.13, received %d.%d (try make PYTHON=python3.12)" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --upgrade pip 'setuptools>=77'

# one stamp for each kind of install: made again only when the metadata change
$(VENV)/.installed: $(META) | $(PY)
	$(PY) -m pip install -q -e .
	@touch $@

$(VENV)/.installed-dev: $(META) | $(PY)
	$(PY) -m pip install -q -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(META) | $(VENV)/.installed-dev
	$(PY) -m pip install -q -e '.[bench]'
	@touch $@

run: $(VENV)/.installed ## train one network under several optimizers, all lenses, and write a report into OUT
	$(BIN)/precond study --out $(OUT) $(ARGS)
	@echo "The report is $(abspath $(OUT))/report.html"

test: notebooks ## every notebook's tests, then the whole-process tests
	$(ONE) $(PY) -m pytest $(PYTEST)

notebooks: $(VENV)/.installed-dev ## every notebook's tests through nbdev_test
	@echo "nbdev_test: $$(find nbs -name '*.ipynb' -not -path '*/.*' | wc -l | tr -d ' ') notebooks"
	PATH="$(abspath $(BIN)):$$PATH" $(ONE) $(BIN)/nbdev_test $(NBDEV_WORKERS)

slow: $(VENV)/.installed-dev ## the same with the cells marked slow
	PATH="$(abspath $(BIN)):$$PATH" $(ONE) $(BIN)/nbdev_test --flags slow $(NBDEV_WORKERS)

lab: $(VENV)/.installed-dev ## JupyterLab in nbs/
	cd nbs && "$(abspath $(BIN))/jupyter" lab

docs: $(VENV)/.installed-dev ## build the site into _docs, offline, and check its links
	$(ONE) $(PY) .ci/docs.py

docs-serve: ## read the site, with its search, at http://127.0.0.1:PORT
	@test -f _docs/index.html || $(MAKE) docs
	$(PY) -m http.server --bind 127.0.0.1 --directory _docs $(PORT)

bench: $(VENV)/.installed-bench ## run the benchmark notebooks, storing what they measure
	$(ONE) $(PY) .ci/execute.py nbs/benchmarks

readme: $(VENV)/.installed-dev ## README.md from nbs/index.ipynb
	$(PY) .ci/readme.py

export: $(VENV)/.installed-dev ## after editing notebooks: modules, clean notebooks, README.md, sidebar
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(PY) .ci/readme.py
	$(PY) .ci/docs.py --sidebar

lint: $(VENV)/.installed-dev ## errors only: alignment is ours
	$(BIN)/ruff check precond tests .ci setup.py

clean: ## remove what builds and tests leave
	rm -rf _docs _proc build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## and the environment
	rm -rf .venv *.egg-info
