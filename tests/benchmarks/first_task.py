# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds from asking for a pod to the first task of Ansible that has succeeded on it, by direct SSH and through the gateway alone.

Usage: python tests/benchmarks/first_task.py [--runs 3]

The clock begins with the create's request as the rehearsal cloud has logged it, and ends when `ansible.builtin.ping` has answered; the cloud's own
delay until the pod boots is in it, at the scale 1 of its settings, and is told beside it. Medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / ".collections")]
from support.world import ROOT, make_world  # noqa: E402

WAYS: dict[str, dict[str, Any]] = {"direct SSH": {}, "gateway": {"ports": ["8888/http"]}}
PLAY = [
    {"import_playbook": str(ROOT / "playbooks/start.yml")},
    {
        "hosts": "cycle_pods",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.ping": {}},
            {"ansible.builtin.copy": {"content": "{{ now(utc=true).timestamp() }}", "dest": "{{ first_task_file }}"}, "delegate_to": "localhost"},
        ],
    },
    {"import_playbook": str(ROOT / "playbooks/stop.yml")},
]


def measure(world: Any, run_id: str, options: dict[str, Any]) -> tuple[float, float]:
    """Seconds to the first task, and how many of them the cloud took to boot the pod."""
    book, told = world.path / "first.yml", world.path / "first"
    book.write_text(json.dumps(PLAY), encoding="utf-8")
    world.play(str(book), run_id=run_id, first_task_file=str(told), **options).ok()
    asked = next(entry for entry in world.posts() if entry["path"] == "/v2/pods" and run_id in json.dumps(entry["body"]))
    pod = next(one for one in world.control("GET", "/pods")["pods"] if run_id in one["name"])
    began = _seconds(asked["time"])
    return float(told.read_text(encoding="utf-8")) - began, _seconds(pod["started_at"]) - began


def _seconds(text: str | float) -> float:
    return float(text) if isinstance(text, (int, float)) else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    world = make_world("bench-first")
    try:
        world.start_cloud(scale=1)
        for way, options in WAYS.items():
            found = [measure(world, f"first-{way.split()[0]}-{turn}", options) for turn in range(runs)]
            whole, boot = (statistics.median(column) for column in zip(*found, strict=True))
            spread = f"{min(row[0] for row in found):.1f} to {max(row[0] for row in found):.1f}"
            print(f"{way:12} {whole:5.1f} s ({spread}), {boot:.1f} s of it the cloud's boot; load average {os.getloadavg()[0]:.1f}", flush=True)
    finally:
        world.close()


if __name__ == "__main__":
    main()
