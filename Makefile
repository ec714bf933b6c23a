# make demo   the whole pipeline, from nothing, with pictures in out/demo
# make test   the test suite (fast tests; `make test-slow` runs the long ones too)
# make check  formatting, lint, types, import rules
# make bench  the benchmarks behind docs/performance.md
# Each target creates the environment it needs in .venv and is idempotent.

BIN := .venv/bin
# Those that need neither files nor hours; the others say in their headers what they need.
BENCHMARKS := products ptv3_speed predict_candidates robot_flow render_speed training plan_latency splat_raster splat_mesh
export OMP_WAIT_POLICY ?= passive

.PHONY: setup demo test test-slow check bench build clean

setup:
	@scripts/setup.sh

demo: setup
	@$(BIN)/pointworld demo --out out/demo

test: setup
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: setup
	@$(BIN)/python -m pytest -m "not gpu" $(PYTEST_ARGS)

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup
	@for name in $(BENCHMARKS); do echo "== $$name"; PYTHONPATH=. $(BIN)/python benchmarks/$$name.py || exit 1; done

build: setup
	@scripts/smoke_wheel.sh

clean:
	rm -rf .venv out build dist *.egg-info
