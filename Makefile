# Berth. `make demo` shows it, `make test` proves it; see README.md.
SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := build

# sudo's PATH lacks the usual place of Go.
export PATH := $(PATH):/usr/local/go/bin

VERSION := v0.1.0
KUBERNETES := v1.36.3
KUBE_VERSION := k8s.io/component-base/version
KUBE_LDFLAGS := -s -w -X $(KUBE_VERSION).gitVersion=$(KUBERNETES) -X $(KUBE_VERSION).gitMajor=1 -X $(KUBE_VERSION).gitMinor=36

# Tools come from internal/tools/go.mod, at the versions it pins.
TOOL := go tool -modfile=internal/tools/go.mod

PRODUCT := bin/controller bin/speaker bin/kubectl-berth
LAB := bin/lab bin/kube bin/agnhost
LAB_MODULE := internal/lab

GO_FILES := $(shell find api controller speaker internal cmd -name '*.go' -not -path '$(LAB_MODULE)/*' -not -path 'internal/packaging/*' 2>/dev/null)
LAB_FILES := $(shell find $(LAB_MODULE) -name '*.go')

# Prints how far a long compilation is instead of a line per package.
PROGRESS := awk -v what="$$WHAT" '/^[a-zA-Z0-9._~\/-]+$$/ { n++; if (n % 100 == 0) { printf "  %s: %d packages compiled\n", what, n; fflush() } next } { print; fflush() }'

# Says once more at the end, in short, which tests have failed: much is printed between.
FAILURES := awk '{ print; fflush() } /--- FAIL/ { n = 4 } n-- > 0 { failed = failed substr($$0, 1, 500) "\n" } END { if (failed) printf "\nFailed:\n%s", failed }'

.PHONY: build
build: $(PRODUCT) $(LAB) ## Build Berth and the lab into bin/.

# How all programs are built, wherever: the tag keeps html/template out, which GoBGP
# brings in and which keeps the linker from leaving out what is not used.
PRODUCT_FLAGS := -trimpath -tags grpcnotrace -ldflags '-s -w -X main.version=$(VERSION)'

bin/controller: MAIN := ./controller
bin/speaker: MAIN := ./speaker
bin/kubectl-berth: MAIN := ./cmd/kubectl-berth
$(PRODUCT): $(GO_FILES) go.mod go.sum
	CGO_ENABLED=0 go build -o $@ $(PRODUCT_FLAGS) $(MAIN)
	@test $$(stat -c %s $@) -lt 45000000 || { echo "$@ is larger than 45 MB"; exit 1; }

bin/lab: $(LAB_FILES) $(GO_FILES) $(LAB_MODULE)/go.mod $(LAB_MODULE)/go.sum
	CGO_ENABLED=0 go build -C $(LAB_MODULE) -o ../../$@ ./cmd/lab

bin/kube: $(LAB_MODULE)/cmd/kube/main.go $(LAB_MODULE)/go.mod $(LAB_MODULE)/go.sum
	@echo "Building Kubernetes $(KUBERNETES) and etcd; the first time this takes 6 minutes on two cores."
	@export WHAT=kubernetes; CGO_ENABLED=0 go build -C $(LAB_MODULE) -v -o ../../$@ -ldflags '$(KUBE_LDFLAGS)' ./cmd/kube 2>&1 | $(PROGRESS)

bin/agnhost: $(LAB_MODULE)/go.mod $(LAB_MODULE)/go.sum
	@export WHAT=agnhost; CGO_ENABLED=0 go build -C $(LAB_MODULE) -v -o ../../$@ -ldflags '-s -w' k8s.io/kubernetes/test/images/agnhost 2>&1 | $(PROGRESS)

bin/helm: internal/packaging/go.mod internal/packaging/go.sum
	CGO_ENABLED=0 go build -C internal/packaging -trimpath -o ../../$@ -ldflags '-s -w' helm.sh/helm/v3/cmd/helm

IMAGES := bin/images
IMAGE_ARCHITECTURES := amd64 arm64

.PHONY: images
images: ## OCI archives and SBOMs for amd64 and arm64 into bin/images; the same bytes each time.
	for arch in $(IMAGE_ARCHITECTURES); do \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -buildvcs=false -o $(IMAGES)/$$arch/ $(PRODUCT_FLAGS) ./controller ./speaker || exit 1; \
	done
	go run -C internal/packaging ./cmd/images -version $(VERSION) -folder ../../$(IMAGES) $(IMAGE_ARCHITECTURES)

PLUGINS := linux-amd64 linux-arm64 darwin-arm64 windows-amd64

.PHONY: plugins
plugins: ## kubectl-berth for Linux, macOS and Windows into bin/plugin.
	for target in $(PLUGINS); do \
		case $$target in windows-*) suffix=.exe ;; *) suffix= ;; esac; \
		CGO_ENABLED=0 GOOS=$${target%-*} GOARCH=$${target#*-} go build -buildvcs=false -o bin/plugin/$$target/kubectl-berth$$suffix $(PRODUCT_FLAGS) ./cmd/kubectl-berth || exit 1; \
		test $$(stat -c %s bin/plugin/$$target/kubectl-berth$$suffix) -lt 45000000 || { echo "bin/plugin/$$target is larger than 45 MB"; exit 1; }; \
	done

.PHONY: demo
demo: packages build ## Show Berth at work in a cluster of network namespaces (root).
	@$(LAB_MODULE)/demo.sh

.PHONY: demo-down
demo-down: ## Remove what `make demo` left running.
	@bin/lab down --name demo

.PHONY: test
test: lint test-unit test-lab ## Everything: lint, unit tests with -race, lab tests (root).

.PHONY: test-unit
test-unit: packages build ## Unit tests of Berth and of the lab, with -race.
	go test -race ./...
	@# What builds for Windows needs neither Linux nor Unix, and so builds for macOS.
	CGO_ENABLED=0 GOOS=windows GOARCH=amd64 go build -o /dev/null $(PRODUCT_FLAGS) ./cmd/kubectl-berth
	@# Not from the cache, which does not know that these tests read config and deploy.
	go test -C internal/packaging -count=1 ./...
	go test -C $(LAB_MODULE) -race $$(go list -C $(LAB_MODULE) ./... | grep -v -e /e2e -e /cmd/kube)

.PHONY: test-lab
test-lab: packages build bin/helm ## End-to-end tests in the lab (root). RUN=regexp chooses some.
	@# The lab runs from archives what the images of this machine's architecture have.
	$(MAKE) images IMAGES=bin/lab-images IMAGE_ARCHITECTURES=$$(go env GOARCH)
	go test -C $(LAB_MODULE) -count=1 -timeout 45m -p 1 $(if $(RUN),-run '$(RUN)' -v) ./e2e/... | $(FAILURES)

.PHONY: lint
lint: check-generated ## Vet, import rules and style.
	$(TOOL) golangci-lint run ./...
	cd internal/packaging && go tool -modfile=../tools/go.mod golangci-lint run --config ../../.golangci.yaml ./...
	cd $(LAB_MODULE) && go tool -modfile=../tools/go.mod golangci-lint run --config ../../.golangci.yaml ./...

.PHONY: generate
generate: ## Deepcopy, CRDs, RBAC, deploy/, docs/api.md and docs/metrics.md from their sources.
	$(TOOL) controller-gen object crd paths=./api/... output:crd:dir=config/crd
	$(TOOL) controller-gen rbac:roleName=berth-controller paths=./controller/... output:rbac:dir=config/rbac/controller
	$(TOOL) controller-gen rbac:roleName=berth-speaker paths=./speaker/... output:rbac:dir=config/rbac/speaker
	$(TOOL) kustomize build config/default > deploy/berth.yaml
	@# The rules as promtool takes them, as the operator does.
	{ cat config/monitoring/prometheusrule.head && sed 's/^\(.\)/  \1/' config/monitoring/rules.yaml; } > config/monitoring/prometheusrule.yaml
	{ cat internal/metricspage/intro.md && for program in controller speaker; do go run $(PRODUCT_FLAGS) ./$$program metrics || exit 1; done; } > docs/metrics.md
	go run ./internal/docs/cmd/apireference
	@# What the chart takes as it is; its templates add labels and namespace.
	rm -rf deploy/chart/files && mkdir -p $(addprefix deploy/chart/files/,admission controller crd monitoring namespace rbac)
	cp config/crd/berth.dev_*.yaml deploy/chart/files/crd
	cp config/admission/nodestates.yaml config/admission/services.yaml deploy/chart/files/admission
	cp config/controller/lease.yaml config/controller/networkpolicy.yaml config/controller/poddisruptionbudget.yaml deploy/chart/files/controller
	cp config/namespace/namespace.yaml deploy/chart/files/namespace
	cp config/monitoring/rules.yaml config/monitoring/dashboards/*.json config/monitoring/access/access.yaml deploy/chart/files/monitoring
	for role in controller speaker; do cat config/rbac/$$role/bindings.yaml config/rbac/$$role/role.yaml > deploy/chart/files/rbac/$$role.yaml; done
	cp config/rbac/viewer/role.yaml deploy/chart/files/rbac/viewer.yaml

# Generates in a copy, so that neither edits under way nor files that git does
# not know yet confuse it.
.PHONY: check-generated
check-generated:
	@copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && \
	cp -r api config controller deploy docs internal speaker go.mod go.sum Makefile "$$copy" && $(MAKE) --silent -C "$$copy" generate && \
	for folder in api config deploy docs; do diff -r "$$folder" "$$copy/$$folder" || { echo "generated files are stale: run 'make generate'"; exit 1; }; done

.PHONY: bench
bench: ## Benchmarks.
	go test -run '^$$' -bench . -benchmem ./...

.PHONY: lab
lab: packages build ## Start a lab to play with; see bin/lab --help.
	bin/lab up

.PHONY: packages
packages: ## Install the Debian packages that tests and lab need.
	@.ci/packages

.PHONY: help
help:
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'
