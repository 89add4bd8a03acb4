# Every target that a person runs says what it does. `make` alone lists them.

GO      ?= go
TOOLS   := $(CURDIR)/bin
FOR     ?= 2m
# Tools are built from the module proxy, once, at these versions.
STATICCHECK := $(TOOLS)/staticcheck-v0.8.2
GOFUMPT     := $(TOOLS)/gofumpt-v0.12.0

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build bin/quash
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/quash ./cmd/quash

demo: ## the main job, played with real processes
	$(GO) run ./cmd/quash demo

test: lint ## everything that must hold at each change (under 15 minutes on 2 cores)
	$(GO) test -race -timeout 14m ./...
	$(GO) test -count=1 -v -timeout 14m -run TestP4Simulation . # all of them: with the race detector a part is played
	cd bench && $(GO) vet ./... && $(GO) test -timeout 5m ./...

lint: $(STATICCHECK) $(GOFUMPT) ## vet, staticcheck, gofumpt
	@out=$$($(GOFUMPT) -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofumpt these files (make fmt does it):"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(STATICCHECK) ./...

fmt: $(GOFUMPT) ## format every file
	$(GOFUMPT) -w $$(git ls-files '*.go')

bench: ## the figures that matter, beside their floors and peers, in one run
	cd bench && $(GO) run .

model: ## the protocol of leases checked exhaustively by spin, and its mutations (needs spin and gcc); writes model/result.txt
	./model/run

chaos: ## real processes stopped, killed and cut off for FOR=2m, and what they accepted meanwhile
	$(GO) test -race -count=1 -v -timeout 1h ./chaos -run TestChaos -chaos.for=$(FOR)

mutants: ## leave each rule of the protocol out and let the simulation find what breaks
	$(GO) run ./testdata/simulation/mutants

soak: ## the tests with more time and more seeds (about 20 minutes); writes docs/soak.txt
	@{ echo "make soak, $$(date -u +%F), $$($(GO) version), $$(nproc) cores"; echo; \
	QUASH_SOAK=1 $(GO) test -v -race -count=1 -timeout 2h ./... || echo FAIL; \
	$(GO) test ./internal/jws -run '^$$' -fuzz '^FuzzParse$$' -fuzztime 1m || echo FAIL; \
	$(GO) test ./internal/jws -run '^$$' -fuzz '^FuzzMembers$$' -fuzztime 1m || echo FAIL; \
	$(GO) test ./internal/feed -run '^$$' -fuzz '^FuzzDecode$$' -fuzztime 1m || echo FAIL; } 2>&1 \
	| grep --line-buffered -E '^make soak|^ok|FAIL|^panic|soak:|elapsed: 1m0' | tee docs/soak.tmp
	@if grep -q FAIL docs/soak.tmp; then echo "failed; docs/soak.txt keeps the last good result"; exit 1; fi; mv docs/soak.tmp docs/soak.txt

$(STATICCHECK):
	GOBIN=$(TOOLS) $(GO) install honnef.co/go/tools/cmd/staticcheck@v0.8.2 && mv $(TOOLS)/staticcheck $@

$(GOFUMPT):
	GOBIN=$(TOOLS) $(GO) install mvdan.cc/gofumpt@v0.12.0 && mv $(TOOLS)/gofumpt $@

.PHONY: help build demo test lint fmt bench model chaos mutants soak
.DEFAULT_GOAL := help
