# make demo   a 30 s take with two cues, in takes/demo
# make studio the studio, in a browser
# make test   all tests
# Each sets up .venv first if necessary.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= takes/demo
TEST_PROCESSES ?= 2
TESTS ?= tests
COVERED ?= longlive_rag backbone retrieval eval
BIN := $(VENV)/bin
READY := $(VENV)/ready
WHEEL_VENV := build/wheel-test/venv
PIP_INSTALL = pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt
# One thread per process: most tests are too small to gain from more. tests/conftest.py decides which files start first.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo studio test coverage docs page check wheel wheel-test clean

help:
	@sed -n 's/^# //p' Makefile | head -4

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	@echo "Setting up $(VENV) (once; a few minutes, mostly torch) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m $(PIP_INSTALL) torch
	@$(BIN)/python -m $(PIP_INSTALL) -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/longlive-rag generate "a blue square stands in a desert" --seconds 30 -o $(DEMO) --overwrite \
	  --cue 8 "a blue square leaves in a desert" --cue 20 "a blue square returns in a desert" \
	  --seed 1

studio: $(READY)
	$(BIN)/longlive-rag studio

# To run a part: make test TESTS="tests --ignore tests/backbone"
test: $(READY)
	$(PYTEST) --durations 15 $(TESTS)

# Separate from `test`, because coverage makes tests/retrieval about 50 % slower. COVERED="retrieval backbone" runs only
# these packages' own tests; longlive_rag is tested throughout tests/, so measuring it runs all of them.
coverage: $(READY)
	@mkdir -p build
	COVERAGE_FILE=build/.coverage $(PYTEST) $(COVERED:%=--cov=%) --cov-report=term:skip-covered \
	  $(if $(filter longlive_rag,$(COVERED)),tests,$(COVERED:%=tests/%))

# Regenerate the tables of options in docs/ from the commands' help.
docs: $(READY)
	$(BIN)/python docs/tables.py

# Build the studio's page. The built page is committed, so only changing it requires Node.
page:
	cd longlive_rag/studio/web && npm ci --silent && npm run --silent build

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(READY)
	@rm -rf dist build/lib build/bdist.*
	@$(BIN)/python -m build --wheel --outdir dist . > build-wheel.log 2>&1 || (cat build-wheel.log; exit 1)
	@rm -f build-wheel.log
	@ls -l dist/*.whl

# Test the wheel as a user gets it: in a clean environment and folder.
wheel-test: wheel
	@rm -rf build/wheel-test && mkdir -p build/wheel-test/elsewhere
	@$(PYTHON) -m venv $(WHEEL_VENV)
	@$(WHEEL_VENV)/bin/python -m $(PIP_INSTALL) torch
	@$(WHEEL_VENV)/bin/python -m $(PIP_INSTALL) dist/*.whl
	cd build/wheel-test/elsewhere && env -u PYTHONPATH ../venv/bin/longlive-rag generate "a blue square jumps in a desert" --seconds 6 -o take --json > result.json
	@cd build/wheel-test/elsewhere && ../venv/bin/python -c 'import json, longlive_rag; r = json.load(open("result.json")); assert "site-packages" in longlive_rag.__file__; assert r["frames"] == 96 and r["frames_retrieved"] > 0, r; from importlib.resources import files; assert (files("longlive_rag.studio") / "page" / "index.html").is_file(), "no page"; print("wheel: ok,", r["frames"], "frames,", r["frames_retrieved"], "retrieved")'

clean:
	rm -rf build dist $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache
