# `make demo` and `make test` are all that a fresh Debian 12 machine needs: both install what is missing first.
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3
VENV := build/venv
RUN := $(VENV)/bin/python
# Mounts of its own, whose end is seen by all that it starts: `ip netns exec` copies the mounts that it finds.
APART := unshare --mount --propagation shared
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

FIRMWARE ?= both
NODES ?= 2
IMAGE ?=
KILL ?=

.PHONY: help setup packages lint test test-lane test-vm-short test-unit test-netns test-vm test-nspawn deb sim fuzz demo bench-ring bench-tftp bench-http bench-boot bench-dhcp bench-images bench-registry bench-delta man clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: packages $(VENV)/.done ## install Debian packages and the virtual environment

packages:
	@missing=$$(grep -v '^#' packages.txt | while read -r name; do \
	    dpkg-query -W -f='$${Status}' "$$name" 2>/dev/null | grep -q 'install ok installed' || echo "$$name"; done); \
	if [ -n "$$missing" ]; then \
	    echo "setup: installing Debian packages:" $$missing; \
	    $(ROOT) apt-get update -q && \
	    $(ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	fi

$(VENV)/.done: pyproject.toml constraints.txt | packages
	@echo "setup: virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

lint: setup ## ruff and mypy --strict
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint ## every tier: unit and property, network namespaces, the package in a container, virtual machines
	@$(MAKE) --no-print-directory test-unit
	$(RUN) -m tests.property.wire_fuzz --seed 1
	@echo "test: virtual machines beside namespaces and container; each says what it found when it ends"
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-lane test-vm-short

test-lane: setup
	$(ROOT) $(APART) $(VENV)/bin/pytest -q -n 2 --dist loadfile --durations=30 -m 'not long' tests/netns
	@$(MAKE) --no-print-directory test-nspawn

test-unit: setup ## unit and property tests: no root, a few minutes
	$(VENV)/bin/pytest -q -n 2 --dist loadfile tests/unit tests/property

fuzz: setup ## a million hostile inputs for the wire, and for each parser of the boot plane. FUZZ='--seed 1'
	$(RUN) -m tests.property.wire_fuzz $(FUZZ)
	$(RUN) -m tests.property.netboot_fuzz $(FUZZ)

test-netns: setup ## real clients and servers in network namespaces (root): every case
	$(ROOT) $(VENV)/bin/pytest -q --durations=30 tests/netns

test-vm: setup ## real firmware in QEMU, software emulation (root): every case, an hour on a slow machine
	$(ROOT) $(VENV)/bin/pytest -q --durations=30 tests/vm

test-vm-short: setup
	$(ROOT) $(APART) $(VENV)/bin/pytest -q --durations=30 -m 'not long' tests/vm

demo: setup ## the main job: netboot virtual nodes and clone them. FIRMWARE=bios|uefi|both NODES=n IMAGE=path
	$(ROOT) $(RUN) -m tests.lab.demo --firmware $(FIRMWARE) --nodes $(NODES) \
	    $(if $(IMAGE),--image $(IMAGE)) $(if $(KILL),--kill $(KILL))

sim: setup ## RingSim: 10,000 seeded rings of up to 1,000 virtual members. SIM='--seed 4711 --trace' replays one
	$(RUN) -m tests.sim $(or $(SIM),--seeds 10000)

bench-ring: setup ## the ring against udpcast, nc, and dolly and kascade if here (root). BENCH='--receivers 1 3 --runs 1'
	@for program in udp-sender:udpcast nc:netcat-openbsd; do \
	    command -v $${program%:*} >/dev/null || $(ROOT) env DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qy --no-install-recommends $${program#*:} || echo "bench-ring: no $${program#*:}"; done
	$(ROOT) $(RUN) -m tests.bench.ring $(BENCH)

bench-tftp: setup ## TFTP against dnsmasq, atftpd and tftpd-hpa (root). BENCH='--runs 1 --cases 3 7' shortens it
	$(ROOT) $(RUN) -m tests.bench.tftp $(BENCH)

bench-http: setup ## HTTP files against nginx (root). BENCH='--runs 1 --mebibytes 256' shortens it
	$(ROOT) $(RUN) -m tests.bench.http $(BENCH)

bench-boot: setup ## power-on to stage1 beside dnsmasq with PXELINUX, and to a local disk's login (root). BENCH='--runs 1'
	$(ROOT) $(RUN) -m tests.bench.boot $(BENCH)

bench-dhcp: setup ## a boot storm of 1,000 machines while a 1 GiB image is served (root). BENCH='--clients 200'
	$(ROOT) $(RUN) -m tests.bench.dhcp $(BENCH)

bench-registry: setup ## images to and from docker-registry, packs of several sizes. BENCH='--chunks 256 --packs 0 32'
	$(RUN) -m tests.bench.registry $(BENCH)

bench-images: setup ## images against partclone with zstd, dd with gzip (root). BENCH='--mebibytes 1024 --runs 1'
	$(ROOT) $(RUN) -m tests.bench.images $(BENCH)

bench-delta: setup ## a disk that is reset by its differences, beside rsync (root). BENCH='--mebibytes 512'
	$(ROOT) $(RUN) -m tests.bench.delta $(BENCH)

deb: setup ## a Debian package in build/deb. VERSION=0.2.0 in place of the changelog's
	sh debian/build.sh build/deb $(VERSION)

test-nspawn: setup ## the Debian package in a booted systemd container (root)
	$(ROOT) $(VENV)/bin/pytest -q tests/nspawn

man: setup ## build/bootd.1, the manual page, from the commands
	@$(RUN) -m bootd.cli.manual > build/bootd.1
	@mandoc -Tlint build/bootd.1 && echo 'read it: man -l build/bootd.1'

clean: ## remove everything built, the cache too
	rm -rf build
