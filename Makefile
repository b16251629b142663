# The two commands: `make demo` runs the platform, `make test` passes the tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export GOTOOLCHAIN := local

.PHONY: help
help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: ## Install the system packages and build the pinned tools
	@scripts/setup

.PHONY: build
build: ## Build bin/panal (static)
	@scripts/need-go
	@CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/panal ./cmd/panal

.PHONY: demo
demo: ## Tell the story: STEP=data|train|serve, DATA=/path/to/labelled/folders, DEMO_EXIT=1 to end after it
	@scripts/setup demo
	@$(MAKE) --no-print-directory build
	@STEP='$(STEP)' DATA='$(DATA)' DEMO_EXIT='$(DEMO_EXIT)' scripts/demo

.PHONY: load
load: ## The load this design was born from, against a server of its own
	@scripts/setup demo
	@$(MAKE) --no-print-directory build
	@scripts/load $(LOADFLAGS)

.PHONY: bench-objects
bench-objects: ## Uploads and downloads beside versitygw's, in one run: BENCHFLAGS='-cases 4KiB:16'
	@scripts/setup
	@$(MAKE) --no-print-directory build
	@go run ./bench/objects $(BENCHFLAGS)

.PHONY: bench-index
bench-index: ## The file index on PostgreSQL beside JSONB with GIN: BENCHFLAGS='-files 1000000'
	@scripts/setup
	@go build -o bin/bench-index ./bench/index
	@PANAL_PG_OPTIONS='-c shared_buffers=1GB -c max_wal_size=8GB' scripts/with-postgres bin/bench-index $(BENCHFLAGS)

.PHONY: bench-events
bench-events: ## Storage events to searchable files, beside one call per message: BENCHFLAGS='-backlog 1000000'
	@scripts/setup
	@go build -o bin/bench-events ./bench/events
	@PANAL_PG_OPTIONS='-c shared_buffers=1GB -c max_wal_size=8GB' scripts/with-postgres bin/bench-events $(BENCHFLAGS)

.PHONY: bench-serving
bench-serving: ## Gateway, agent and a Python handler beside a plain Python server: BENCHFLAGS='-workers 2'
	@scripts/setup
	@$(MAKE) --no-print-directory build
	@go build -o bin/bench-serving ./bench/serving
	@bin/bench-serving $(BENCHFLAGS)

.PHONY: bench-gateway
bench-gateway: ## The gateway beside nginx, HAProxy, Caddy and a bare reverse proxy: BENCHFLAGS='-only panal,nginx'
	@scripts/setup gateway
	@$(MAKE) --no-print-directory build
	@go build -o bin/bench-gateway ./bench/gateway
	@bin/bench-gateway $(BENCHFLAGS)

.PHONY: bench-routes
bench-routes: ## 100,000 services in one gateway: start, memory, lookups during changes: BENCHFLAGS='-services 10000'
	@scripts/setup
	@go build -o bin/bench-routes ./bench/routes
	@bin/bench-routes $(BENCHFLAGS)

.PHONY: check
check: ## The quick half of test: format, lint, vet, architecture
	@scripts/setup tools
	@scripts/check

.PHONY: test
test: ## Everything CI runs
	@scripts/setup
	@scripts/test

.PHONY: torture
torture: ## Kill server, PostgreSQL, S3 and SQS server 50 times under load (PANAL_TORTURE_SEED=… repeats a run); the database away for PANAL_OUTAGE (10m) twice
	@scripts/setup
	@PANAL_TORTURE_KILLS=$${PANAL_TORTURE_KILLS:-50} go test ./e2e -run 'TestTorture|TestLinkTorture' -count 1 -v -timeout 60m
	@PANAL_OUTAGE=$${PANAL_OUTAGE:-10m} go test ./e2e -run TestDatabaseOutage -count 1 -v -timeout 60m

.PHONY: torture-links
torture-links: ## The same for linked buckets alone, for PANAL_TORTURE_FOR (5m) at PANAL_TORTURE_RATE (500) changes a second
	@scripts/setup
	@PANAL_TORTURE_FOR=$${PANAL_TORTURE_FOR:-5m} go test ./e2e -run TestLinkTorture -count 1 -v -timeout 60m

.PHONY: dist
dist: build ## dist/: the static binary and a systemd unit
	@rm -rf dist && mkdir -p dist
	@cp bin/panal deploy/panal.service LICENSE dist/
	@cd dist && sha256sum panal panal.service > SHA256SUMS && ls -l

.PHONY: golden
golden: ## Rewrite the golden files (review the diff)
	@go test ./internal/api -run TestSpecGolden -update
	@go test ./internal/archtest -run TestBinary -update

.PHONY: clean
clean: ## Remove what was built
	@rm -rf bin dist
