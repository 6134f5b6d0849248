# `make` lists the targets. A fresh Debian 12 needs make and git; whatever else is missing hack/setup installs, with a word.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# A distribution's Go is often older than go.mod asks for: it may fetch the version that go.mod names.
export GOTOOLCHAIN ?= auto

# Nothing here needs C but the race detector, and the product must not have build paths. Both hold for all that is built: what
# the linters have compiled is there for the product, the tests and the tools, so a machine with empty caches compiles it once.
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)

# Static, stripped, without build paths: the same commit gives the same bytes. The version is the commit's (buildvcs).
# Without gRPC's trace pages, whose templates keep the linker from leaving out what is not called: 3 MB in each daemon.
PRODUCT_BUILD := go build -trimpath -buildvcs=auto -tags grpcnotrace -ldflags '-s -w'
LAB           := $(CURDIR)/bin/lab run --
CLUSTER       := $(CURDIR)/bin/cluster run --image $(CURDIR)/bin/image.tar --apply $(CURDIR)/conf --apply $(CURDIR)/test/e2e/testdata/networks.yaml

# What `make soak` raises; and how many fuzz targets run at a time.
FUZZTIME ?= 10s
FUZZERS  ?= 2
COUNT    ?= 1

# The packages that have tests for the lab (or the cluster): those with files behind its build tag.
files = $(shell grep -rlE '^//go:build .*\b$(1)\b' --include='*_test.go' cmd internal pkg test | xargs grep -lE '^func Test')
tagged = $(sort $(dir $(addprefix ./,$(call files,$(1)))))
# And these tests alone: the packages' other ones have run without a VM.
tests = '^($(shell grep -hoE '^func Test\w+' $(call files,$(1)) | grep -v TestMain | cut -c6- | paste -sd'|'))$$'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## the two commands

.PHONY: demo
demo: image bin/cluster bin/demo ## two pods on VLAN 100 over real VFs, from nothing; KEEP=1 leaves the cluster up with a shell
	@bin/cluster run --vfs 0 --image bin/image.tar -- bin/demo $(if $(KEEP),--keep) || { \
		echo; echo "✗ The demo FAILED. Why is in the line above that begins with ✗, or, if no cluster came up, with \"cluster:\"."; exit 1; }

# Two parts run at once, once what they share is built. With more VMs than CPUs, or beside a compiler, an emulated CPU spends what
# it gets on waiting for itself: all of it takes longer.
.PHONY: test
test: ## every test that takes no hours (those: make soak), fuzz targets for FUZZTIME each
	hack/stages test-unit
	$(MAKE) image tools bin/testpmd.tar bin/cni-plugins bin/sriov-helper
	bin/cluster build
	FUZZERS=3 hack/stages -2 test-cluster test-lab fuzz

## building

.PHONY: build
build: setup-go ## the product's static binaries, in bin/
	@mkdir -p bin
	flock bin $(PRODUCT_BUILD) -o bin/ ./cmd/...

.PHONY: tools
tools: bin/lab bin/cluster bin/demo ## the lab, the cluster and the demo, in bin/

.PHONY: bin/lab bin/cluster bin/demo
bin/lab bin/cluster bin/demo: setup-go
	@mkdir -p bin
	go build -o $@ ./test/$(@F)

# The pods' DPDK, out of Debian's packages: nothing of it is this project's, so it is made once.
bin/testpmd.tar: | setup-go
	@mkdir -p bin
	go run ./test/cluster/testpmd $@

# What the tests of internal/sriov start a thousand times in the lab, where nothing can be built quickly.
.PHONY: bin/sriov-helper
bin/sriov-helper: setup-go
	@mkdir -p bin
	go build -ldflags '-s -w' -o $@ ./internal/sriov/testdata/helper

.PHONY: bin/cni-plugins
bin/cni-plugins: setup-go
	@mkdir -p $@
	go build -C internal/delegate/testdata/plugins -o $(CURDIR)/$@/ tool

.PHONY: image
image: build ## the container image localhost/viaduct:dev, also as OCI archive bin/image.tar
	hack/setup image
	images/build

# One archive for all architectures: skopeo copy --all oci-archive:bin/image-all.tar docker://REGISTRY/viaduct:TAG
.PHONY: image-all
image-all: setup-go ## the image for amd64 and arm64, as one OCI archive bin/image-all.tar; prints its digest
	@for arch in amd64 arm64; do mkdir -p bin/$$arch; GOARCH=$$arch $(PRODUCT_BUILD) -o bin/$$arch/ ./cmd/... || exit 1; done
	go run ./images/assemble index -o bin/image-all.tar $${IMAGE:-localhost/viaduct:dev} amd64=bin/amd64 arm64=bin/arm64

# Builds all of it twice, the second time from a clone in another folder and with an empty cache.
.PHONY: check-reproducible
check-reproducible: image-all ## the image for all architectures, built again elsewhere, has the same digest
	hack/reproducible

## testing

# Packages at a time: many tests wait more than they work.
AT_ONCE ?= $(shell echo $$((2 * $$(nproc))))

# A process with the race detector sleeps a second when it exits, and tests start hundreds of themselves as CNI plugins.
.PHONY: test-unit
test-unit: setup-go ## tests that need no VM, with the race detector (which needs gcc: installed if missing)
	hack/setup gcc nft ip
	CGO_ENABLED=1 GORACE=atexit_sleep_ms=0 hack/in-memory go test -race -p $(AT_ONCE) -shuffle=on -count=$(COUNT) -timeout 30m ./...
	go test -C test/deploy -shuffle=on -count=$(COUNT) -timeout 30m ./...

# The VM's own tests come first: they are about a machine as it boots.
.PHONY: test-lab
test-lab: build bin/lab bin/cni-plugins bin/sriov-helper ## tests in a VM with emulated SR-IOV NICs and the kernel's own drivers, and of that VM
	@[ -n "$(call tagged,lab)" ] || { echo "no package has lab tests: that cannot be right"; exit 1; }
	go test -tags labhost -p 1 -count=$(COUNT) -timeout $$((10*$(COUNT)))m ./test/lab ./test/lab/vm
	hack/lab-tests $$((60*$(COUNT)))m "-test.count=$(COUNT) -test.timeout=$$((40*$(COUNT)))m -test.run="$(call tests,lab) \
		$(filter %/guesttest/,$(call tagged,lab)) $(filter-out %/guesttest/,$(call tagged,lab))

.PHONY: test-cluster
test-cluster: image bin/cluster bin/testpmd.tar ## tests on a real kubelet, containerd and API server in that VM
	@[ -n "$(call tagged,cluster)" ] || { echo "no package has cluster tests: that cannot be right"; exit 1; }
	go test -tags apiserver -v -count=$(COUNT) -timeout $$((10*$(COUNT)))m -exec '$(CURDIR)/bin/cluster run --node=false --apply $(CURDIR)/conf --' ./test/manifests
	go test -tags cluster -v -p 1 -count=$(COUNT) -timeout $$((60*$(COUNT)))m -run $(call tests,cluster) -exec '$(CLUSTER) --image $(CURDIR)/bin/testpmd.tar --' $(call tagged,cluster)

.PHONY: test-survive
test-survive: image bin/cluster ## of that, what goes wrong on nodes, a third of it each day (TURN=N: that one; COUNT=3: all), under pods with VFs
	go test -tags cluster -v -count=$(COUNT) -timeout $$((60*$(COUNT)))m -run '^TestSurvive$$' -exec '$(CLUSTER) --' ./test/e2e $(if $(TURN),-args -survive-turn $(TURN))

# Exclusive CPUs of two NUMA nodes take a VM with three: too slow for every day.
.PHONY: test-numa
test-numa: image bin/cluster ## the cluster's test of pods whose CPUs and VFs are to be of one NUMA node, on a node with three CPUs
	go test -tags cluster,numa -v -count=1 -timeout 40m -exec '$(CLUSTER) --cpus 3 --' ./test/e2e -run TestNUMA

.PHONY: fuzz
fuzz: setup-go ## every fuzz target, FUZZTIME (10s) each
	hack/in-memory hack/fuzz $(FUZZTIME) $(FUZZERS)

.PHONY: bench
bench: build bin/lab ## every benchmark; those of the VF path run in the lab, with two CPUs as a node has, as ratios to the bare kernel's time
	go test -run '^$$' -bench . -benchmem ./cmd/... ./internal/... ./pkg/...
	go test -tags lab -v -run '^$$' -bench . -timeout 60m -exec '$(CURDIR)/bin/lab run --cpus 2 --' ./test/bench/...

# Not a part of CI: a quarter of an hour, most of it to watch agents do nothing. docs/scale.md has the figures of one run.
.PHONY: scale
scale: bin/cluster ## how the daemons grow: a node with 1,024 VFs and 250 pods; agents against a real API server, for 1,000 nodes
	go test -tags scale -v -count=1 -timeout 60m -run TestNode ./test/scale
	go test -tags scale -v -count=1 -timeout 60m -run TestFleet -exec '$(CURDIR)/bin/cluster run --node=false --' ./test/scale

.PHONY: crash
crash: build bin/lab bin/sriov-helper ## SIGKILL at every point of the VF path, each with every recovery, and a reboot; 500 pods on 8 VFs
	go test -tags lab -v -count=1 -timeout 12h -exec '$(LAB)' ./internal/sriov/ -run 'TestKilledAnywhere|TestWorkers' -args -crash-full -cycles 500
	@disk=$$(mktemp -d); trap 'rm -rf "$$disk"' EXIT; \
	for half in before after; do \
		go test -tags lab -v -count=1 -exec "$(CURDIR)/bin/lab run --persist $$disk --" ./internal/sriov/ -run TestReboot -args -reboot $$half; \
	done

# How long, and which order: 0 is a new one, which the table tells.
SURVIVE ?= 10m
SEED    ?= 0

.PHONY: survive
survive: image bin/cluster ## what goes wrong on nodes, all of it at random for 10 minutes; prints a table; SEED=N replays
	go test -tags cluster -v -count=1 -timeout 60m -exec '$(CLUSTER) --' ./test/e2e -run '^TestSurvive$$' -args -survive-for $(SURVIVE) -survive-seed $(SEED)

.PHONY: reboot
reboot: image bin/cluster ## a node that is rebooted while pods hold VFs and others start
	@disk=$$(mktemp -d); trap 'rm -rf "$$disk"' EXIT; \
	for half in before after; do \
		go test -tags cluster,reboot -v -count=1 -timeout 40m -exec "$(CLUSTER) --persist $$disk --" ./test/e2e -run '^TestReboot$$' -args -reboot $$half || exit 1; \
	done

.PHONY: soak
soak: ## what takes too long for CI: fuzzing for 10 minutes each, every test ten times over, 10,000 pods, crash, scale and more
	$(MAKE) fuzz FUZZTIME=10m
	$(MAKE) survive
	$(MAKE) reboot
	$(MAKE) test COUNT=10
	$(MAKE) test-numa
	$(MAKE) demo
	VIADUCT_PODS=10000 go test -run TestChurn -timeout 60m ./internal/delegate
	go test -tags soak -run TestNewAuthority ./internal/agent
	$(MAKE) scale
	$(MAKE) check-reproducible
	$(MAKE) crash

## checking

.PHONY: check
check: check-format check-lint check-size check-vulns ## formatting, linters (vet is one) for every build tag, sizes of binaries and image, known vulnerabilities

.PHONY: check-format
check-format: bin/tools/gofumpt
	@out=$$(bin/tools/gofumpt -l .); [ -z "$$out" ] || { echo "not formatted (run make fmt):"; echo "$$out"; exit 1; }

# No `go vet` beside it: that has the same analyzers look at every dependency, to learn which functions of theirs print.
.PHONY: check-lint
check-lint: bin/tools/golangci-lint
	bin/tools/golangci-lint run
	cd test/deploy && ../../bin/tools/golangci-lint run

.PHONY: check-size
check-size: build
	hack/size
	go run ./images/assemble index -o bin/image-size.tar localhost/viaduct:dev $$(go env GOARCH)=bin

.PHONY: check-vulns
check-vulns: bin/tools/govulncheck
	hack/vulns

.PHONY: fmt
fmt: bin/tools/gofumpt ## format everything
	bin/tools/gofumpt -w .

bin/tools/%: tools/go.mod tools/go.sum | setup-go
	@mkdir -p bin/tools
	go build -C tools -o ../bin/tools/ $$(cd tools && go list -f '{{.ImportPath}}' tool | grep '/$*$$')

.PHONY: setup-go
setup-go:
	@hack/setup go

.PHONY: clean
clean: ## remove what was built here (the lab's and the cluster's cache stays: see docs/development.md)
	rm -rf bin
