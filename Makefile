# Two doors: `make reproduce` and `make test`. Each sets up what it needs in .venv first.
#
#   make reproduce PROFILE=quick SEED=0 DATA=phantom CORES=2   every figure and table of the paper, into runs/; DATA: or a manifest
#   make setup                                                 what both need, in .venv
#   make test                                                  notebooks and package in step, style, tests
#   make export                                                write the modules that notebooks export
#   make weights CUBES=cubes.csv                               first train those networks on, with real nodules of a manifest of cubes
#   make accept                                                copy that run's results into figures/<profile>/, its outputs into nbs/
#   make weights                                               copy that run's networks into lungadv/weights/, with a model card
#   make readme                                                README.md from nbs/index.ipynb, and the tables of docs/, from figures/standard/
#   make docs                                                  the documentation, into docs/_build/html/
#   make clean                                                 remove the set-up and the caches; runs/ stays

PROFILE ?= quick
SEED ?= 0
DATA ?= phantom
CORES ?= 2
PYTHON ?= python3

# Notebooks, progress bars and file names, whatever the locale.
export PYTHONUTF8 = 1

RUN = --profile "$(PROFILE)" --seed "$(SEED)" --data "$(DATA)"
BIN = .venv/bin

.PHONY: setup reproduce export test accept weights readme docs clean
.DEFAULT_GOAL := reproduce

setup: .venv/.ready

reproduce: .venv/.ready
	@$(BIN)/lungadv reproduce $(RUN) --cores "$(CORES)"

# nbdev would write a list of modules into the package's docstring; the package has a front of its own.
export: .venv/.ready
	@$(BIN)/python -c 'from nbdev import config, doclinks; config.update_init_mdoc = lambda *_, **__: None; doclinks.nbdev_export()'
	@$(BIN)/nbdev-clean

test: .venv/.ready
	@before=$$(find lungadv nbs -name "*.py" -o -name "*.ipynb" | sort | xargs cat | cksum); $(MAKE) --no-print-directory export || exit 1; \
	test "$$before" = "$$(find lungadv nbs -name "*.py" -o -name "*.ipynb" | sort | xargs cat | cksum)" || \
	{ echo "lungadv/ and nbs/ were not in step; they have been rewritten: look with 'git diff', commit, test again"; exit 1; }
	$(BIN)/ruff check
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

accept: .venv/.ready
	@$(BIN)/python -m lungadv.pipeline accept $(RUN)

weights: .venv/.ready
	@$(BIN)/python -m lungadv.pipeline weights $(RUN) $(if $(CUBES),--real "$(CUBES)")

readme: .venv/.ready
	@$(BIN)/python -m lungadv.pipeline readme

docs: .venv/.ready-docs
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -q -W --keep-going -c docs . docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis lungadv.egg-info build dist docs/_build

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "lungadv needs Python 3.11 or later, this is %d.%d: name another one with make PYTHON=python3.11" % sys.version_info[:2])'
	@echo "setting up .venv: downloads some 200 Python packages, about 0.6 GB (with the CUDA build of torch about 3 GB), once"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

.venv/.ready-docs: .venv/.ready
	@echo "setting up the documentation's tools in .venv: downloads about 0.1 GB, once"
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@
