# Every target does its own set-up the first time; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
RUNTIME := .venv/.ready-runtime
DEV := .venv/.ready-dev
PACKAGES := .venv/.ready-packages

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(RUNTIME): requirements/runtime.lock scripts/setup.sh scripts/install_project.py
	@scripts/setup.sh runtime

$(DEV): requirements/dev.lock scripts/setup.sh scripts/install_project.py
	@scripts/setup.sh dev

$(PACKAGES): scripts/packages.sh
	@scripts/packages.sh test
	@mkdir -p .venv && touch $@

.PHONY: run
run: $(RUNTIME) ## Start Keystead on this machine (Ctrl-C stops it)
	@exec $(BIN)/keystead serve

.PHONY: demo
demo: $(RUNTIME) ## Walk the whole guide in a temporary folder (KEEP=1 leaves it running)
	@exec $(BIN)/python scripts/demo.py $(if $(KEEP),--keep)

.PHONY: test
test: $(DEV) $(PACKAGES) ## Run the tests, on PostgreSQL and again on SQLite
	@$(BIN)/python scripts/run_tests.py $(ARGS)

.PHONY: test-long
test-long: $(DEV) $(PACKAGES) ## Run the tests that take minutes
	@$(BIN)/python scripts/run_tests.py --long $(ARGS)

.PHONY: test-cluster
test-cluster: $(DEV) $(PACKAGES) ## Break a cluster of two nodes under load, and write docs/reliability.md (7 minutes)
	@$(BIN)/python -m tests.cluster --write $(ARGS)

.PHONY: bench-api
bench-api: $(DEV) $(PACKAGES) ## Measure lists and details of 100,000 CloudKeys, on SQLite and PostgreSQL
	@$(BIN)/python scripts/bench_api.py $(ARGS)
	@$(BIN)/python scripts/services.py $(BIN)/python scripts/bench_api.py $(ARGS)

.PHONY: bench-web
bench-web: $(DEV) $(PACKAGES) ## Measure every page with 100,000 CloudKeys and 1,000,000 audit events, on SQLite and PostgreSQL
	@$(BIN)/python scripts/bench_web.py $(ARGS)
	@$(BIN)/python scripts/services.py $(BIN)/python scripts/bench_web.py $(ARGS)

.PHONY: screenshots
screenshots: $(DEV) $(PACKAGES) ## Draw every page, wide and narrow, light and dark, into screenshots/ (GUIDE=1 renews the guide's pictures)
	@$(BIN)/python scripts/screenshots.py $(if $(GUIDE),--guide) $(ARGS)

.PHONY: messages
messages: $(DEV) ## Write locale/en/LC_MESSAGES/django.po, from which a translation begins (needs GNU gettext)
	@$(BIN)/python scripts/write_messages.py

.PHONY: bench-rules
bench-rules: $(DEV) ## Measure what access rules cost a request
	@$(BIN)/python scripts/bench_rules.py $(ARGS)

.PHONY: bench-xks
bench-xks: $(DEV) ## Measure the XKS endpoint (wrk, h2load); LONG=1, PEER=url,prefix,akid,secret,key, PROTECTION=hsm-resident, GROWTH=1: docs/benchmarks.md
	@$(BIN)/python scripts/$(if $(GROWTH),bench_growth.py,bench_xks.py) $(ARGS)

.PHONY: bench-hsm
bench-hsm: $(DEV) $(PACKAGES) ## Measure HSM helpers: speed, a slow token, members that fail and return (2 minutes)
	@$(BIN)/python scripts/bench_hsm.py $(ARGS)

.PHONY: bench-overload
bench-overload: $(DEV) ## Measure what becomes of requests beyond what the endpoint can take (needs h2load)
	@$(BIN)/python scripts/bench_overload.py $(ARGS)

.PHONY: bench-journal
bench-journal: $(DEV) $(PACKAGES) ## Measure what recording every use costs: fdatasync, write against group, shipping, bytes (needs wrk)
	@$(BIN)/python scripts/bench_journal.py $(ARGS)
	@$(BIN)/python scripts/services.py $(BIN)/python scripts/bench_journal.py --only ship $(ARGS)

.PHONY: bench-kill-switch
bench-kill-switch: $(DEV) $(PACKAGES) ## Measure how fast a disable takes effect under load, on SQLite and PostgreSQL
	@$(BIN)/python scripts/bench_kill_switch.py $(ARGS)
	@$(BIN)/python scripts/services.py $(BIN)/python scripts/bench_kill_switch.py --only notified $(ARGS)
	@$(BIN)/python scripts/services.py $(BIN)/python scripts/bench_kill_switch.py --only lost $(ARGS)

.PHONY: check
check: $(DEV) ## Check style, types, layers, migrations, deployment settings, lock files, licences
	@scripts/check.sh

.PHONY: audit
audit: $(DEV) ## Look for known vulnerabilities in what the lock files name (asks the network)
	@scripts/audit.sh

.PHONY: lock
lock: $(DEV) ## Rewrite the lock files (P="name ..." raises only these)
	@scripts/lock.sh $(P)

.PHONY: clean
clean: ## Remove what the targets made, but never the data folder
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
