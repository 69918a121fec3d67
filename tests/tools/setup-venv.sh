#!/usr/bin/env bash
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# setup-venv.sh PYTHON VENV REQUIREMENTS: system packages, a venv, uv in it, the requirements.
set -euo pipefail
python=$1 venv=$2 requirements=$3

die() { echo "make: $*" >&2; exit 1; }

command -v "$python" >/dev/null || die "$python is not there; install Python 3.11 or later, or name one: make PYTHON=python3.12 ..."
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || die "$python does not run; name another: make PYTHON=python3.12 ..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$python is Python $version, and 3.11 or later is needed; name another: make PYTHON=python3.12 ..."

packages=()
command -v ssh >/dev/null || packages+=(openssh-client)
command -v rsync >/dev/null || packages+=(rsync)
"$python" -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
if ((${#packages[@]})); then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing ${packages[*]} with apt"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null 2>&1 ||
      { apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null; } ||
      die "apt could not install ${packages[*]}; install them by hand and run make again"
  else
    die "please install: ${packages[*]} (on Debian or Ubuntu: sudo apt-get install ${packages[*]})"
  fi
fi

if [[ ! -x $venv/bin/python ]] || ! "$venv/bin/python" -c '' 2>/dev/null; then
  echo "Making $venv with Python $version"
  rm -rf "$venv"
  # A venv without pip is made in a tenth of a second, one with pip in four.
  if "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --without-pip "$venv"
  else
    "$python" -m venv "$venv"
  fi
fi
if ! "$venv/bin/uv" --version >/dev/null 2>&1; then
  pin=$(grep -E '^uv==' requirements-run.txt | cut -d' ' -f1)
  { [[ ! -x $venv/bin/pip ]] && "$python" -m pip --python "$venv/bin/python" install -q --disable-pip-version-check "$pin"; } 2>/dev/null ||
    { "$venv/bin/python" -m ensurepip >/dev/null && "$venv/bin/python" -m pip install -q --disable-pip-version-check "$pin"; } ||
    die "$pin could not be installed from the package index; check the network, or set PIP_INDEX_URL"
fi
echo "Installing $requirements into $venv"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -r "$requirements" ||
  die "the packages of $requirements could not be installed; check the network, or set UV_DEFAULT_INDEX"
