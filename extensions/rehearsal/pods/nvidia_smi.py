# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for nvidia-smi inside a process pod. It is copied into the pod, reads gpu.json beside it and needs nothing but the standard library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FIELDS_WITHOUT_UNITS = {"index", "name", "uuid", "gpu_uuid", "driver_version", "compute_cap", "count", "pci.bus_id", "gpu_bus_id", "pstate", "compute_mode",
                        "persistence_mode", "mig.mode.current", "timestamp", "serial", "gpu_serial", "vbios_version", "display_active"}  # fmt: skip
UNITS = {"memory": "MiB", "utilization": "%", "power": "W", "clocks": "MHz"}
NOT_AVAILABLE = {"ecc.errors.uncorrected.volatile.total", "ecc.errors.corrected.volatile.total", "fan.speed",
                 "retired_pages.pending", "clocks_throttle_reasons.active", "clocks_event_reasons.active",
                 "pcie.link.gen.current", "pcie.link.width.current", "ecc.mode.current"}  # fmt: skip


def values(card: dict[str, Any], count: int, driver: str) -> dict[str, str]:
    total = card["memory_mib"]
    return {
        "index": str(card["index"]), "name": card["name"], "gpu_name": card["name"], "uuid": card["uuid"], "gpu_uuid": card["uuid"],
        "driver_version": driver, "count": str(count), "compute_cap": card["compute_cap"], "pci.bus_id": card["bus_id"], "gpu_bus_id": card["bus_id"],
        "memory.total": str(total), "memory.used": "1", "memory.free": str(total - 1), "memory.reserved": "0",
        "utilization.gpu": "0", "utilization.memory": "0", "temperature.gpu": "31", "power.draw": "20.00", "power.limit": f"{card['power_w']}.00",
        "pstate": "P8", "compute_mode": "Default", "persistence_mode": "Enabled", "mig.mode.current": "[N/A]", "clocks.sm": "210",
        "clocks.current.sm": "210", "clocks.mem": "405", "serial": "[N/A]", "gpu_serial": "[N/A]", "vbios_version": "00.00.00.00.00",
        "display_active": "Disabled", **{name: "[N/A]" for name in NOT_AVAILABLE},
    }  # fmt: skip


def with_unit(field: str, value: str) -> str:
    unit = UNITS.get(field.split(".")[0])
    return value if unit is None or value == "[N/A]" else f"{value} {unit}"


def query(gpus: dict[str, Any], names: list[str], options: list[str]) -> int:
    rows = [values(card, len(gpus["cards"]), gpus["driver"]) for card in gpus["cards"]]
    for name in names:
        if name not in rows[0]:
            print(f'Field "{name}" is not a valid field to query.\n')
            return 2
    plain = "nounits" in options
    if "noheader" not in options:
        heads = [f"{name} [{UNITS[name.split('.')[0]]}]" if plain is False and name.split(".")[0] in UNITS else name for name in names]
        print(", ".join(heads))
    for row in rows:
        print(", ".join(row[name] if plain else with_unit(name, row[name]) for name in names))
    return 0


def table(gpus: dict[str, Any]) -> int:
    line = "+" + "-" * 89 + "+"
    print(line)
    print(f"| NVIDIA-SMI {gpus['driver']:<22} Driver Version: {gpus['driver']:<14} CUDA Version: {gpus['cuda']}".ljust(90) + "|")
    print(line)
    for card in gpus["cards"]:
        print(f"| {card['index']:>3}  {card['name'][:40]:<40}  {card['bus_id']:<18}  1MiB / {card['memory_mib']}MiB".ljust(90) + "|")
    print(line)
    print("|  No running processes found".ljust(90) + "|")
    print(line)
    return 0


def select(gpus: dict[str, Any], wanted: str) -> dict[str, Any]:
    names = wanted.split(",")
    return {**gpus, "cards": [card for card in gpus["cards"] if str(card["index"]) in names or card["uuid"] in names]}


def main(arguments: list[str]) -> int:
    gpus: dict[str, Any] = json.loads(Path(__file__).with_name("gpu.json").read_text(encoding="utf-8"))
    asked: list[str] = []
    options: list[str] = []
    listing = processes = False
    words = iter(arguments)
    for word in words:
        name, _mark, value = word.partition("=")
        if name in ("-i", "--id"):
            gpus = select(gpus, value or next(words, ""))
        elif name == "--query-gpu":
            asked = [part.strip() for part in value.split(",") if part.strip()]
        elif name in ("--query-compute-apps", "--query-apps"):
            processes = True
        elif name == "--format":
            options = [part.strip() for part in value.split(",")]
        elif name in ("-L", "--list-gpus"):
            listing = True
        else:
            print(f'Invalid combination of input arguments. Please run "nvidia-smi -h" for help. ("{word}" is not known to this stand-in)')
            return 2
    if not gpus["cards"]:
        print("No devices were found")
        return 6
    if listing:
        for card in gpus["cards"]:
            print(f"GPU {card['index']}: {card['name']} (UUID: {card['uuid']})")
        return 0
    if asked:
        return query(gpus, asked, options)
    return 0 if processes else table(gpus)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
