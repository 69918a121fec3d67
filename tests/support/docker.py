# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program named docker that answers from a table and notes what it was asked, where no engine is wanted."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAM = """#!{python}
import json, pathlib, sys, time
home = pathlib.Path({home!r})
words = sys.argv[1:]
with (home / "asked.jsonl").open("a") as log:
    log.write(json.dumps(words) + "\\n")
table = json.loads((home / "answers.json").read_text())
found = max((key for key in table if (" ".join(words) + " ").startswith(key + " ")), key=len, default=None)
answer = table.get(found) or {{"code": 1, "err": "no answer for " + " ".join(words)}}
time.sleep(answer.get("sleep", 0))
sys.stdout.write(answer.get("out", ""))
sys.stderr.write(answer.get("err", ""))
sys.exit(answer.get("code", 0))
"""
# An engine that runs and has no image yet.
FRESH = {"version": {"out": "28.0.0\n"}, "buildx version": {"out": "v0.30.0\n"}, "image inspect": {"code": 1, "err": "Error: No such image: it\n"}}


class FakeDocker:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.program = home / "docker"
        home.mkdir(parents=True, exist_ok=True)
        self.program.write_text(PROGRAM.format(python=sys.executable, home=str(home)), encoding="utf-8")
        self.program.chmod(0o755)
        self.answers: dict[str, Any] = {}
        self.tell(FRESH)

    def tell(self, answers: Mapping[str, Any]) -> None:
        """The longest beginning of the words decides."""
        self.answers = {**self.answers, **answers}
        (self.home / "answers.json").write_text(json.dumps(self.answers), encoding="utf-8")

    def asked(self) -> list[list[str]]:
        log = self.home / "asked.jsonl"
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
