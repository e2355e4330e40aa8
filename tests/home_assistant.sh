#!/usr/bin/env bash
# Builds a virtual environment with a real Home Assistant, for tests/box/serving/test_home_assistant.py: 2025.4 where there is a Python 3.13, else
# 2024.3 on Python 3.11, which knows no discovery of whole devices. About four minutes and 800 MB; needs a C compiler and the broker of `make system`.
#
#   tests/home_assistant.sh [FOLDER [PYTHON]]      FOLDER: $EDGEMM_HOME_ASSISTANT, else ~/.cache/edgemm-home-assistant; PYTHON: 3.13 or 3.11
set -euo pipefail
house=${1:-${EDGEMM_HOME_ASSISTANT:-$HOME/.cache/edgemm-home-assistant}}
only=${2:-}
[ -e "$house/ready" ] && exit 0

found() { # the first interpreter of version $1, on the path or with pyenv, that runs
	local one
	[ "${only:-$1}" = "$1" ] || return 1
	for one in "$(command -v "python$1" || true)" "$HOME"/.pyenv/versions/"$1"*/bin/python"$1"; do
		[ -x "$one" ] && "$one" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null && echo "$one" && return
	done
	return 1
}

if python=$(found 3.13); then
	version=2025.4.4
	packages="homeassistant==2025.4.4 paho-mqtt==2.1.0 home-assistant-frontend==20250411.0 cronsim==2.6"
elif python=$(found 3.11); then
	version=2024.3.3
	packages="homeassistant==2024.3.3 paho-mqtt<2 janus==1.0.0 Pillow==10.2.0 home-assistant-frontend==20240307.0 securetar==2024.2.1
		psutil-home-assistant==0.0.1 PyTurboJPEG==1.7.1 SQLAlchemy==2.0.28 fnv-hash-fast==0.5.0 fnvhash==0.1.0 hass-nabucasa==0.78.0 josepy<2"
else
	echo "tests/home_assistant.sh: no Python 3.13 and no Python 3.11 here; install one of them first" >&2
	exit 1
fi
"$python" -m venv "$house/venv"
# shellcheck disable=SC2086
"$house/venv/bin/pip" install --quiet --disable-pip-version-check $packages
"$house/venv/bin/python" -c "import homeassistant.const as const; assert const.__version__ == '$version', const.__version__"
echo "$version" >"$house/ready"
