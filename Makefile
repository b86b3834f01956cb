# One page: every task of the project. `make demo` and `make test` do all their set-up themselves.

TARGET  := $(shell rustc -vV | sed -n 's/^host: //p')
DIST    := target/dist
# Shown by `lighter-runtime --version`.
COMMIT  := $(shell git describe --always --dirty --abbrev=12 2>/dev/null)
PREFIX  ?= /usr/local
DESTDIR ?=
UNITDIR ?= /etc/systemd/system
# The crash tests' daemons kill themselves at named points; what is shipped has none of them.
POINTS  := --features agent/failpoints,control-plane/failpoints,runtime/failpoints

.PHONY: build setup setup-test setup-suites setup-vm setup-fuzz setup-sigstore demo test test-oci test-suites test-vm test-sigstore fuzz lint bench install install-files deb clean

# The three binaries, release-built. The runtime is static: it starts in two thirds of the time. To be
# small it has packed relocations (94 kB less), no tables for unwinding (330 kB), and one copy of
# what the compiler finds repeated (50 kB).
comma := ,
SMALL := -C target-feature=+crt-static -C force-unwind-tables=no -C llvm-args=-enable-machine-outliner -C llvm-args=-machine-outliner-reruns=2 \
    -C link-arg=-Wl,-z,pack-relative-relocs,--no-eh-frame-hdr,-T,$(CURDIR)/runtime/link.ld
# It begins before the C library does (runtime/src/sys/entry.rs); and this linker folds equal functions.
SMALL += $(if $(filter x86_64-%,$(TARGET)),-C link-arg=-Wl$(comma)-e$(comma)lighter_start$(comma)--icf=all)
# Names of this version of the C library only, see runtime/src/lean_libc.rs.
LEAN := $(if $(filter 2.36,$(lastword $(shell getconf GNU_LIBC_VERSION))),--features lean-libc)

build:
	LIGHTER_COMMIT="$(COMMIT)" RUSTFLAGS="$(SMALL)" cargo build --locked --profile runtime -p runtime $(LEAN) \
	    --bin lighter-runtime --target $(TARGET) --target-dir target/static
	cargo build --locked --release -p agent -p control-plane
	install -D -m 0755 -t $(DIST) target/static/$(TARGET)/runtime/lighter-runtime \
	    target/release/lighter target/release/lighter-control-plane

setup:
	.ci/setup demo

setup-test:
	.ci/setup test

setup-suites:
	.ci/setup suites

setup-vm:
	.ci/setup vm

setup-fuzz:
	.ci/setup fuzz

setup-sigstore: setup-test
	.ci/setup sigstore

demo: setup build
	examples/demo.sh $(DIST)

lint: setup-test
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo check --locked -q -p protocol --no-default-features
	cargo deny --config .ci/deny.toml check --hide-inclusion-graph bans licenses sources
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --workspace --no-deps --document-private-items -q

# Unit tests, then the real binaries (built as shipped) against real peers, as root. One build makes
# the tests and, of the same libraries, the binaries with fail points.
test: lint build
	cargo build --locked --workspace --bins --tests $(POINTS)
	LIGHTER_DIST=$(CURDIR)/$(DIST) LIGHTER_FAILPOINTS=$(CURDIR)/target/debug \
	    cargo nextest run --locked --workspace $(POINTS)

# The runtime under containerd, Podman and Docker, and runc beside it: a table of both. With
# RUNTIME=runc (or another runtime's path) that one alone.
test-oci: setup-test build
	cargo build --locked -p tests --tests
	LIGHTER_DIST=$(CURDIR)/$(DIST) tests/oci.sh $(RUNTIME)

# The suites of runc and crun on them and on lighter-runtime, side by side; SUITES is one of them, or both.
test-suites: setup-suites build
	LIGHTER_DIST=$(CURDIR)/$(DIST) tests/suites/run $(SUITES)

# The tests whose results depend on the host, in machines of our own: pure cgroup v2, systemd, NFS.
test-vm: setup-vm deb
	cargo build --locked --workspace --bins --tests $(POINTS)
	LIGHTER_POINTS="$(POINTS)" tests/vm/suite

# Signatures against the Sigstore project's own crate, which signs and verifies as cosign does.
PEER := $(CURDIR)/target/peers/sigstore
test-sigstore: setup-sigstore build
	cargo build --locked --manifest-path tests/sigstore/Cargo.toml --target-dir $(PEER)
	LIGHTER_DIST=$(CURDIR)/$(DIST) LIGHTER_SIGSTORE=$(PEER)/debug/sigstore-peer \
	    cargo nextest run --locked -p tests -E 'test(image::sigstore)'

# Each target for SECONDS (60), with nightly if it is there. Not in CI: the unit tests feed the same functions.
fuzz: setup-fuzz
	fuzz/run $(SECONDS)

bench: setup-test build
	LIGHTER_DIST=$(CURDIR)/$(DIST) benches/run.sh $(BENCH)

install: build install-files

# What `install` and the package have in common; the binaries are there.
install-files:
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(DIST)/lighter $(DIST)/lighter-runtime $(DIST)/lighter-control-plane
	for unit in systemd/*.service; do \
	    sed 's|/usr/local/bin|$(PREFIX)/bin|g' "$$unit" | \
	        install -D -m 0644 /dev/stdin "$(DESTDIR)$(UNITDIR)/$${unit##*/}" || exit 1; \
	done
	install -D -m 0600 ecs.config.example $(DESTDIR)/etc/ecs/ecs.config.example

# target/lighter_VERSION_ARCH.deb
deb: build
	packaging/deb/build target

clean:
	cargo clean
