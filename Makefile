# Every target sets up what it needs, in .venv and target/, from the pins in pyproject.toml and
# Cargo.lock. `make demo` and `make test` are the two a newcomer types.

VENV    := .venv
BIN     := $(VENV)/bin
PYTHON  ?= python3
RUST    := $(shell find crates -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
SOURCES := python tests benches examples

.PHONY: demo test check format stress loom bench clean build bench-tools

demo: build
	$(BIN)/python examples/viewer.py

test: build
	cargo test --workspace --exclude alongside-python --locked
	$(BIN)/python -m pytest

# What a reviewer would otherwise have to look for.
check: build
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/python -m mypy.stubtest alongside --allowlist tests/typing/not-compared.txt

format:
	cargo fmt
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# The crash campaign at full length; minutes.
stress: build
	ALONGSIDE_CYCLES=10000 $(BIN)/python -m pytest tests/crash -x -o faulthandler_timeout=1800

# Every interleaving of the protocols of rings and cells.
loom:
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p alongside-shm --release --locked

# Against the others, in one run. Nothing else should run beside it.
bench: build bench-tools
	$(BIN)/python -m benches

build: $(VENV)/built

$(VENV)/tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check 'pip==26.0'
	$(BIN)/python -m pip install -q --disable-pip-version-check --group develop --group demo
	touch $@

$(VENV)/built: $(VENV)/tools $(RUST)
	$(BIN)/maturin develop --release --locked -q
	touch $@

bench-tools: $(VENV)/tools
	$(BIN)/python -m pip install -q --disable-pip-version-check --group bench

clean:
	rm -rf $(VENV) target
