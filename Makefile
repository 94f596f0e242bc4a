# Every target sets up the environment that it needs first, also on a fresh machine.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
PYTEST := -m pytest -n auto --dist loadfile

.PHONY: demo test test-oldest fuzz lint typecheck docs clean

demo: $(VENV)/.installed
	$(VENV)/bin/python -m scoresde_pipelines.demo

test: $(VENV)/.installed
	$(VENV)/bin/python $(PYTEST)

# The same tests on the oldest versions that setup.py allows.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python $(PYTEST)

# An hour of calls with bad arguments, with new seeds; the failures, in groups, go into the report.
FUZZ_SECONDS ?= 3600
FUZZ_REPORT ?= fuzz-report.txt
fuzz: $(VENV)/.installed
	$(VENV)/bin/python -m pipelines_tests.fuzzing --seed 1 --seconds $(FUZZ_SECONDS) --report $(FUZZ_REPORT) --limit 20

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The installed wheel is checked: in a checkout mypy does not see that schedulers/, models/ and training/ are subpackages.
typecheck: $(VENV)/.installed
	rm -rf build
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(VENV)/bin/python -m pip install --quiet --no-deps --target build/installed build/wheel/*.whl
	cd build/installed && $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p scoresde_pipelines

# The pages and the API reference, in build/docs; a warning is an error.
docs: $(VENV)/.installed
	$(VENV)/bin/python -m sphinx -W --keep-going --quiet docs build/docs

$(VENV)/.installed: setup.py constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[training,test,lint,docs,app]'
	touch $@

$(OLDEST)/.installed: setup.py constraints-oldest.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[training,test]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info demo_output .mypy_cache .ruff_cache .pytest_cache
