# What a visitor and a maintainer type. `cargo test` alone runs on a bare machine;
# everything here that needs a real part installs it first (tests/setup says what).

CARGO ?= cargo
BIN = $(CURDIR)/target/debug
DEMO = $(CURDIR)/target/demo

.PHONY: help demo demo-clean test check fmt bench soak fuzz setup yara release package

help:
	@echo 'make demo        the whole story in about a minute, below target/demo'
	@echo 'make demo-clean  remove it'
	@echo 'make test        unit, vector, property and end-to-end tests'
	@echo 'make check       format, lints and documentation'
	@echo 'make yara        build and test mcpfs-yara, the engine for patterns (twenty minutes)'
	@echo 'make release     all programs, optimised: target/release and target/yara/release'
	@echo 'make package     .deb and .rpm of mcpfs, mcpfs-signer and mcpfs-yara: target/packages'
	@echo 'make bench       measure against the native file system'
	@echo 'make soak        everything at once while everything goes wrong (as root; MINUTES=10)'
	@echo 'make fuzz        each fuzz target for 30 seconds (SECONDS=300 for longer; FUZZ_TARGETS=signer/tar for one)'
	@echo 'make setup       only install what the tests need'

demo:
	@tests/setup demo
	@$(CARGO) build --workspace --bins
	@MCPFS_BIN_DIR='$(BIN)' '$(BIN)/mcpfs-demo' '$(DEMO)'

demo-clean:
	@if [ -L '$(DEMO)' ]; then rm -rf "$$(readlink '$(DEMO)')"; fi
	@rm -rf '$(DEMO)'

setup:
	@tests/setup test

test:
	@tests/setup test
	$(CARGO) build --workspace --bins
	@MCPFS_BIN_DIR='$(BIN)' CARGO='$(CARGO)' tests/all

check:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path trust/fuzz/Cargo.toml --check
	$(CARGO) fmt --manifest-path signer/fuzz/Cargo.toml --check
	$(CARGO) fmt --manifest-path daemon/fuzz/Cargo.toml --check
	$(CARGO) fmt --manifest-path signer/yara/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path trust/fuzz/Cargo.toml
	$(CARGO) fmt --manifest-path signer/fuzz/Cargo.toml
	$(CARGO) fmt --manifest-path daemon/fuzz/Cargo.toml
	$(CARGO) fmt --manifest-path signer/yara/Cargo.toml

# The engine is no part of the workspace, so that nobody waits for it who does not need it: its own
# tests, then the signer with it on real servers and on the rules of others.
YARA = $(CURDIR)/target/yara
YARA_CARGO = CARGO_TARGET_DIR='$(YARA)' $(CARGO)

yara:
	@tests/setup test
	$(YARA_CARGO) build --release --locked --manifest-path signer/yara/Cargo.toml
	$(YARA_CARGO) test --release --locked --manifest-path signer/yara/Cargo.toml
	$(YARA_CARGO) clippy --release --locked --all-targets --manifest-path signer/yara/Cargo.toml -- -D warnings
	$(CARGO) build --workspace --bins
	MCPFS_BIN_DIR='$(BIN)' MCPFS_YARA_DIR='$(YARA)/release' \
	  $(CARGO) test --workspace --features mcpfs-tests/patterns --test e2e -- patterns::

release:
	$(CARGO) build --release --locked -p mcpfs -p mcpfs-signer
	$(YARA_CARGO) build --release --locked --manifest-path signer/yara/Cargo.toml

# One layout for both; lintian's silence is part of it.
package: release
	@tests/setup test
	$(CARGO) build --release --locked -p mcpfs-packaging
	MCPFS_YARA_DIR='$(YARA)/release' packaging/build target/release target/packages
	lintian --allow-root --fail-on error,warning target/packages/*.deb

bench:
	@tests/setup bench
	$(CARGO) build --release --workspace --bins
	MCPFS_BIN_DIR='$(CURDIR)/target/release' target/release/mcpfs-bench

soak:
	@tests/setup test
	$(CARGO) build --workspace --bins
	MCPFS_BIN_DIR='$(BIN)' target/debug/mcpfs-soak

CARGO_FUZZ = $(CURDIR)/target/tools/bin/cargo-fuzz
FUZZ_CRATES = trust signer daemon
FUZZ_TARGETS = $(foreach crate,$(FUZZ_CRATES),$(patsubst %.rs,$(crate)/%,$(notdir $(wildcard $(crate)/fuzz/fuzz_targets/*.rs))))
SECONDS ?= 30

$(CARGO_FUZZ):
	@tests/setup fuzz
	$(CARGO) install cargo-fuzz --locked --root target/tools

fuzz: $(CARGO_FUZZ)
	@tests/fuzz $(FUZZ_FLAGS) '$(SECONDS)' $(FUZZ_TARGETS)
