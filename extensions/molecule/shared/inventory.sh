#!/bin/sh
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The running containers of a scenario, as an inventory. Molecule starts this file through a link.
exec python3 "$(dirname "$(readlink -f "$0")")/../containers.py" list "${PODCYCLE_SCENARIO:-default}"
