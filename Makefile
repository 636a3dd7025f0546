# Every target works from a fresh checkout: it makes the environment that it needs, and reuses it afterwards.
# For another Python: make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
# Every process of the tests would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: env demo test check soak fix bench clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "==> making the environment in $(VENV) (the first time this fetches torch, about 3 GB)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -b constraints.txt -e '.[server,torch,demo,test]'
	@touch $@

demo: env
	$(BIN)/python demo/run.py

# First what can share the machine, module by module on every core; then what needs it for itself.
test: env
	$(BIN)/python -m pytest --benchmark-disable -n logical --maxprocesses 8 --dist loadscope -m "not alone and not gpu and not soak"
	$(BIN)/python -m pytest --benchmark-disable -m "alone and not gpu and not soak" tests/fault tests/system

# Two processes a core: these tests wait half of their time.
check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --benchmark-disable -q -n $$((2 * $$(nproc))) --maxprocesses 8 --dist loadscope \
		-m "not system and not torch and not gpu and not soak"

# Long rounds, about an hour on two cores. HUTEROX_TEST_SEED=N has them take other ways.
soak: env
	$(BIN)/python -m pytest --benchmark-disable -m "soak and not gpu"

fix: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/lifecycles.py

bench: env
	$(BIN)/python -m pytest -q -m bench --benchmark-only --benchmark-columns=min,median,ops,rounds --benchmark-group-by=fullname
	$(BIN)/python -m huterox_bench report

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks bench/results demo/out
