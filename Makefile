# Everything a contributor types. `make setup` is idempotent: it runs again only when pyproject.toml or the version has changed.
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?= -n 2 --dist loadfile --max-worker-restart 0
BIN := .venv/bin
STAMP := .venv/.installed
DOCS := build/docs
# All that is imported: a command's page is its verb's.
ROOMS := $(addprefix edgemm.,verbs pipeline workshop graph box data report contracts store errors progress)
# One thread a process: two test processes share two cores, and results do not depend on how many there are.
export OMP_NUM_THREADS ?= 1

.PHONY: aarch64 home-assistant help setup system demo test test-again test-full fuzz check docs clean

help:
	@echo "make setup      .venv with everything in it"
	@echo "make demo       train, compress and benchmark a small model; writes build/demo/bundle/report.html"
	@echo "make check      ruff and mypy"
	@echo "make test       the tests of every CI run"
	@echo "make test-again  those that failed last, alone"
	@echo "make test-full  all tests, the slow ones too, and what share of the lines they ran"
	@echo "make fuzz       10,000 wrong inputs, about a quarter of an hour; writes tests/fuzz/result.json (EXAMPLES=, SEED=)"
	@echo "make docs       API pages from the docstrings; writes build/docs/index.html"
	@echo "make system     system packages that tests use (Debian, as root)"
	@echo "make aarch64    an emulated aarch64 machine for one of the slow tests (Debian, as root; five minutes)"
	@echo "make home-assistant  a real Home Assistant for one of the slow tests (four minutes)"
	@echo "make clean      remove what builds and tests left here (keeps .venv)"

setup: $(STAMP)

$(STAMP): pyproject.toml edgemm/__init__.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[dev]"
	touch $@

# What tests and examples use of the system: a browser, an MQTT broker, an RTSP server (Debian's own Python speaks to it), ssh, and systemd's
# checker of units. Missing and not installable: said loudly here, and those tests skip with the same word.
SYSTEM_PACKAGES := chromium fonts-dejavu-core mosquitto mosquitto-clients ffmpeg openssh-server openssl \
	python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-tools gstreamer1.0-libav \
	gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
SYSTEM_CHECK := { command -v chromium || command -v google-chrome; } && command -v mosquitto && command -v mosquitto_passwd && command -v ffmpeg \
	&& command -v openssl && command -v sshd && /usr/bin/python3 -c "import gi; gi.require_version('GstRtspServer', '1.0')"

system:
	@PATH="$$PATH:/usr/sbin"; if { $(SYSTEM_CHECK); } >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SYSTEM_PACKAGES) >/dev/null; \
	else \
		echo "make system: SKIPPED: some of $(SYSTEM_PACKAGES) are missing and can only be installed by root on Debian;" \
			"tests of the page, cameras and brokers will skip." >&2; \
	fi

demo: setup
	$(BIN)/edgemm demo -o build/demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup system
	$(BIN)/pytest -m "not slow" $(PYTEST_ARGS)

# One process, nothing beside: what fails here too is wrong, not late.
test-again: setup
	$(BIN)/pytest -m "not slow" --last-failed --last-failed-no-failures none

aarch64:
	tests/aarch64_box.sh

home-assistant:
	tests/home_assistant.sh

# Lines run in processes that a test starts (workers of the benchmark, commands) are not counted.
test-full: setup system
	$(BIN)/pytest $(PYTEST_ARGS) --cov --cov-report=term

EXAMPLES ?= 10000
SEED ?= 0
fuzz: setup
	$(BIN)/python -m tests.fuzz $(EXAMPLES) $(SEED)

docs: setup
	rm -rf $(DOCS)
	$(BIN)/pdoc --docformat google --no-show-source --output-directory $(DOCS) $(ROOMS)

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
