#!/usr/bin/env bash
# Builds a root file system of aarch64 Debian with ssh, numpy and ONNX Runtime, for tests/flow/test_remote_aarch64.py. Run as root on Debian
# x86-64; about five minutes and 600 MB. It runs under qemu: slow, but the programs are those of an aarch64 box.
#
#   tests/aarch64_box.sh [FOLDER]      (default: $EDGEMM_AARCH64_BOX, else ~/.cache/edgemm-aarch64)
set -euo pipefail
box=${1:-${EDGEMM_AARCH64_BOX:-$HOME/.cache/edgemm-aarch64}}
[ -e "$box/ready" ] && exit 0
apt-get install -y -qq --no-install-recommends qemu-user-static debootstrap openssh-client >/dev/null

# Hand aarch64 programs to qemu; F keeps the interpreter open, so that it works in a chroot.
formats=/proc/sys/fs/binfmt_misc
mountpoint -q $formats || mount -t binfmt_misc none $formats
if [ ! -e $formats/qemu-aarch64 ]; then
	magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
	mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
	printf ':qemu-aarch64:M::%s:%s:/usr/bin/qemu-aarch64-static:F' "$magic" "$mask" >$formats/register
fi

mirror=$(grep -hE '^URIs:' /etc/apt/sources.list.d/*.sources | head -1 | awk '{print $2}')
mkdir -p "$box"
debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,ca-certificates bookworm "$box" "$mirror"
chroot "$box" /debootstrap/debootstrap --second-stage
chroot "$box" apt-get install -y -qq --no-install-recommends openssh-server python3-venv python3-pip python3-numpy

# The runtime's wheel is fetched by the host: pip's own work would take minutes under qemu.
platforms="--platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64"
wheels=$box/root/wheels
# shellcheck disable=SC2086
python3 -m pip download -q --only-binary=:all: --python-version 3.11 $platforms --no-deps -d "$wheels" onnxruntime flatbuffers packaging protobuf
chroot "$box" python3 -m pip install -q --break-system-packages --no-index --no-deps --find-links /root/wheels onnxruntime flatbuffers packaging protobuf
chroot "$box" python3 -c 'import onnxruntime'
touch "$box/ready"
