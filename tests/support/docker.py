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
log = home / "asked.jsonl"
before = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
with log.open("a") as stream:
    stream.write(json.dumps(words) + "\\n")
table = json.loads((home / "answers.json").read_text())
key_of = lambda words: max((key for key in table if (" ".join(words) + " ").startswith(key + " ")), key=len, default=None)
answer = table.get(key_of(words), {{"code": 1, "err": "no answer for " + " ".join(words)}})
if isinstance(answer, list):
    answer = answer[min(sum(key_of(one) == key_of(words) for one in before), len(answer) - 1)]
time.sleep(answer.get("sleep", 0))
labels = [word.partition("=")[2] for one in before for word in one if word.startswith("io.podcycle.context=")]
sys.stdout.write(answer.get("out", "").replace("@LABEL@", labels[-1] if labels else ""))
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
        """The longest beginning of the words decides; of a list each asking gets the next answer. @LABEL@ is that of the last build."""
        self.answers = {**self.answers, **answers}
        (self.home / "answers.json").write_text(json.dumps(self.answers), encoding="utf-8")

    def asked(self) -> list[list[str]]:
        log = self.home / "asked.jsonl"
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
