# Every target that a person runs says what it does. `make` alone lists them.

GO      ?= go
TOOLS   := $(CURDIR)/bin
FOR     ?= 2m
FUZZ    ?= 10s
# SQLite is C that was translated to Go: its memory is its own, the race detector
# finds nothing in it, and looking would take two thirds of the time.
RACE    := -race -gcflags='modernc.org/...=-race=false'
# Tools are built from the module proxy, once, at these versions.
STATICCHECK := $(TOOLS)/staticcheck-v0.8.2
GOFUMPT     := $(TOOLS)/gofumpt-v0.12.0
GOVULNCHECK := $(TOOLS)/govulncheck-v1.8.0
GOLANGCI    := $(TOOLS)/golangci-lint-v2.15.0

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build bin/quash
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/quash ./cmd/quash

demo: ## the main job, played with real processes
	$(GO) run ./cmd/quash demo

test: lint postgres browser ## everything that must hold at each change (under 15 minutes on 2 cores)
	$(GO) test $(RACE) -timeout 14m ./...
	$(GO) test -count=1 -v -timeout 14m -run TestP4Simulation . # all of them: with the race detector a part is played
	cd bench && $(GO) vet ./... && $(GO) test -timeout 5m ./...
	cd quashgrpc && $(GO) vet ./... && $(GO) test -race -timeout 5m ./...
	cd wycheproof && $(GO) vet ./... && $(GO) test -v -timeout 5m ./...
	$(MAKE) fuzz interop
	cd js && npm ci --no-audit --no-fund && npm test && npm run browser

# Tests start servers of their own from these binaries, as another user where they run as root.
postgres: ## PostgreSQL and pgbouncer, installed from Debian's packages where they are missing
	@if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || ! [ -x /usr/sbin/pgbouncer ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		install="$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql pgbouncer"; \
		echo "installing PostgreSQL and pgbouncer"; \
		$$install || { $$sudo apt-get update && $$install; } || \
		{ echo "the tests need PostgreSQL and pgbouncer: install the packages postgresql and pgbouncer"; exit 1; }; \
	fi

browser: ## Chromium, installed from Debian's package where it is missing; CHROMIUM names another
	@if ! [ -x "$$CHROMIUM" ] && ! [ -x /usr/bin/chromium ] && ! [ -x /usr/bin/google-chrome ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		install="$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium"; \
		echo "installing Chromium"; \
		$$install || { $$sudo apt-get update && $$install; } || \
		{ echo "the tests of pages need Chromium: install the package chromium, or set CHROMIUM to where it is"; exit 1; }; \
	fi

lint: $(STATICCHECK) $(GOFUMPT) ## vet, staticcheck, gofumpt
	@out=$$($(GOFUMPT) -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofumpt these files (make fmt does it):"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(STATICCHECK) ./...

vuln: $(GOVULNCHECK) ## known vulnerabilities in what is called (asks vuln.go.dev)
	$(GOVULNCHECK) ./...
	cd quashgrpc && $(GOVULNCHECK) ./...

golangci: $(GOLANGCI) ## a few linters more, as .golangci.yaml has them (takes minutes to build)
	$(GOLANGCI) run ./...

fmt: $(GOFUMPT) ## format every file
	$(GOFUMPT) -w $$(git ls-files '*.go')

# Each on one core, as many at a time as there are; little time goes to making inputs small. What is found is left in testdata/fuzz of the package.
fuzz: ## each parser with whatever input, for FUZZ=10s
	@git grep -oE '^func Fuzz[A-Za-z]+' -- '*_test.go' | sed -E 's#^(.*/)?[^/]*:func (.*)#./\1 \2#' \
	| xargs -n 2 -P "$$(nproc)" sh -c '\
	out=$$($(GO) test "$$0" -run "^$$" -fuzz "^$$1$$" -fuzztime $(FUZZ) -fuzzminimizetime 100x -parallel 1 2>&1) || { echo "FAIL $$0 $$1"; echo "$$out"; exit 255; }; \
	echo "ok $$0 $$1: $$(echo "$$out" | grep elapsed | tail -1)"'

bench: ## the figures that matter, beside their floors, in one run
	cd bench && $(GO) run .

bench-compare: bench-peers ## … and beside what people use today; writes bench/results/compare.json and its plots
	cd bench && $(GO) run . -compare

bench-quick: bench-peers ## a short run (under 3 minutes) that fails where a ratio is half as bad again as in bench/results/compare.json
	cd bench && $(GO) run . -quick

bench-postgres: postgres ## PostgreSQL beside pgbench, two nodes, and what grows with the sessions; writes bench/results/postgres.json and sessions.svg
	cd bench && $(GO) run . -only postgres,nodes,growth-sessions -json results/postgres.json

bench-server: postgres ## the server over HTTP, on both databases, what it takes of memory and disk, and logins; writes bench/results/server.json
	cd bench && $(GO) run . -only server -json results/server.json

# They are started by the benchmark alone, in a directory of its own.
bench-peers: postgres
	@if ! [ -x /usr/sbin/nginx ] || ! command -v redis-server >/dev/null; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		install="$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nginx-light redis-server"; \
		echo "installing nginx and Redis"; \
		$$install || { $$sudo apt-get update && $$install; } || \
		{ echo "the comparison needs nginx and Redis: install the packages nginx-light and redis-server"; exit 1; }; \
	fi

interop: ## OAuth clients that other people wrote, in Go, Node and Python, against a server
	@if ! /usr/bin/python3 -c 'import authlib, jwt, requests' 2>/dev/null; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		install="$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-authlib python3-jwt python3-requests python3-cryptography"; \
		echo "installing Authlib and PyJWT"; \
		$$install || { $$sudo apt-get update && $$install; } || \
		{ echo "these tests need Authlib and PyJWT: install the packages python3-authlib, python3-jwt and python3-requests"; exit 1; }; \
	fi
	cd interop/node && npm ci --no-audit --no-fund
	cd interop && $(GO) vet ./... && $(GO) test -count=1 -timeout 5m ./...

model: ## the protocol of leases checked exhaustively by spin, and its mutations (needs spin and gcc); writes model/result.txt
	./model/run

chaos: postgres ## real processes, and PostgreSQL, stopped, killed and cut off for FOR=2m, and what was accepted meanwhile; writes chaos/result.txt
	@{ echo "make chaos FOR=$(FOR), $$(date -u +%F), $$($(GO) version), $$(nproc) cores"; echo; } > chaos/result.txt
	$(GO) test -race -count=1 -v -timeout 1h ./chaos -chaos.for=$(FOR) -chaos.out=result.txt

mutants: ## leave each rule of the protocol out and let the simulation find what breaks
	$(GO) run ./testdata/simulation/mutants

soak: ## the tests with more time and more seeds (about an hour); writes docs/soak.txt
	@{ echo "make soak, $$(date -u +%F), $$($(GO) version), $$(nproc) cores"; echo; \
	QUASH_SOAK=1 $(GO) test -v -race -count=1 -timeout 2h ./... || echo FAIL; \
	$(MAKE) fuzz FUZZ=5m || echo FAIL; \
	cd js && npm ci --no-audit --no-fund && npm run matrix || echo FAIL; } 2>&1 \
	| grep --line-buffered -E '^make soak|^ok|FAIL|^panic|soak:|^# (tests|pass|fail)|^Node' | tee docs/soak.tmp
	@if grep -q FAIL docs/soak.tmp; then echo "failed; docs/soak.txt keeps the last good result"; exit 1; fi; mv docs/soak.tmp docs/soak.txt

$(STATICCHECK):
	GOBIN=$(TOOLS) $(GO) install honnef.co/go/tools/cmd/staticcheck@v0.8.2 && mv $(TOOLS)/staticcheck $@

$(GOFUMPT):
	GOBIN=$(TOOLS) $(GO) install mvdan.cc/gofumpt@v0.12.0 && mv $(TOOLS)/gofumpt $@

$(GOVULNCHECK):
	GOBIN=$(TOOLS) $(GO) install golang.org/x/vuln/cmd/govulncheck@v1.8.0 && mv $(TOOLS)/govulncheck $@

$(GOLANGCI):
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 && mv $(TOOLS)/golangci-lint $@

.PHONY: help build demo test postgres browser lint vuln golangci fmt fuzz bench bench-compare bench-quick bench-postgres bench-server bench-peers interop model chaos mutants soak
.DEFAULT_GOAL := help
