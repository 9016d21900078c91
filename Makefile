# make check   everything that must hold before a commit, about a minute warm
# make race    the whole suite under the race detector, the conn tests 100 times
# make soak    50 simulated nodes for 24 hours, 10,000,000 messages, 1,000,000 calls: about eight minutes
# make fuzz    every fuzz target for FUZZTIME each (default 30s)
# make interop real PostgreSQL, nginx, kubo, btcd's tests, CometBFT, network namespaces (Linux, root)
# make interop-long  CometBFT: every bit of the handshake and ten frames, five minutes of pings: 16 to 25 minutes
# make bench   the figures of TESTING.md
GO ?= go
FUZZTIME ?= 30s
TOOL = $(GO) tool -modfile=tools/go.mod
MODULES = . interop interop/kubo interop/btcd interop/cometbft interop/libp2p interop/js bench

.PHONY: check fmt vet lint generate generated tidy test race soak fuzz interop interop-long bench cross hooks build

check: fmt vet lint test

build:
	$(GO) build -o bin/kith ./cmd/kith

fmt:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt these:"; gofmt -l $$(git ls-files '*.go'); exit 1; }

vet:
	$(GO) vet ./...

lint:
	$(TOOL) staticcheck ./...

generate:
	$(TOOL) buf lint
	$(TOOL) buf generate

# Generated code is current when generating changes nothing.
generated: generate
	@git diff --exit-code -- internal/pb || { echo "run 'make generate' and commit"; exit 1; }

# Not tools/: tidying it needs test dependencies of its tools' dependencies.
tidy:
	@for m in $(MODULES); do (cd $$m && $(GO) mod tidy -diff >/dev/null) || { echo "$$m: run 'go mod tidy'"; exit 1; }; done

test:
	$(GO) test ./...

race:
	KITH_NETTEST_REPEATS=100 KITH_FLIPS=all $(GO) test -race -timeout 60m ./...

soak:
	$(GO) test -tags soak -run '^TestSoak$$' -count=1 -timeout 60m -v ./p2p/p2ptest/
	$(GO) test -run '^TestConservationOverResets$$' -count=1 -timeout 60m -v ./p2p -conserve 10000000
	KITH_RPC_CALLS=1000000 $(GO) test -run '^TestManyCallsDoNotGrow$$' -count=1 -timeout 60m -v ./rpc

fuzz:
	.ci/fuzz $(FUZZTIME)

interop:
	interop/install.sh
	cd interop && $(GO) test -count=1 -timeout 20m ./...
	cd interop/kubo && $(GO) test -count=1 -timeout 20m ./...
	cd interop/btcd && $(GO) test -count=1 -timeout 10m ./...
	cd interop/cometbft && $(GO) test -count=1 -timeout 20m ./...
	cd interop/libp2p && $(GO) test -count=1 -timeout 10m ./...
	cd interop/js && $(GO) test -count=1 -timeout 10m ./...

interop-long:
	cd interop/cometbft && KITH_INTEROP_MINUTES=5 KITH_INTEROP_TAMPER=all $(GO) test -count=1 -timeout 60m -v ./...

bench:
	cd bench && $(GO) run .

# Linux is where kith is proved; it must build elsewhere too.
cross:
	@for os in darwin windows; do for arch in amd64 arm64; do \
		echo "build $$os/$$arch"; CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) build -o /dev/null ./... || exit 1; \
		CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch $(GO) vet ./... || exit 1; \
	done; done

hooks:
	git config core.hooksPath .githooks
