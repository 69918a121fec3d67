# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""State that survives the server: one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rehearsal.meter import Interval
from rehearsal.records import Pod

SCHEMA = """
CREATE TABLE IF NOT EXISTS pods (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS intervals (id INTEGER PRIMARY KEY, pod_id TEXT, owner TEXT, name TEXT, kind TEXT, state TEXT, rate TEXT, started REAL, ended REAL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, body TEXT NOT NULL);
"""


class Store:
    """A committed write outlives a killed server."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._db.close()

    def save_pods(self, pods: Iterable[Pod]) -> None:
        rows = [(pod.id, json.dumps(pod.to_dict())) for pod in pods]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO pods (id, body) VALUES (?, ?) ON CONFLICT(id) DO UPDATE SET body = excluded.body", rows)
        self._db.execute("COMMIT")

    def save_pod(self, pod: Pod) -> None:
        self.save_pods([pod])

    def load_pods(self) -> list[Pod]:
        return [Pod.from_dict(json.loads(body)) for (body,) in self._db.execute("SELECT body FROM pods ORDER BY seq")]

    def delete_pod(self, pod_id: str) -> None:
        self._db.execute("DELETE FROM pods WHERE id = ?", (pod_id,))

    def save_intervals(self, intervals: Iterable[Interval]) -> None:
        rows = [(one.id, one.pod_id, one.owner, one.name, one.kind, one.state, one.rate, one.started, one.ended) for one in intervals]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO intervals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")

    def load_intervals(self) -> list[Interval]:
        return [Interval(*row) for row in self._db.execute("SELECT * FROM intervals ORDER BY id")]

    def save_fact(self, name: str, body: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(body)))

    def load_fact(self, name: str) -> Any:
        row = self._db.execute("SELECT body FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def clear(self) -> None:
        self._db.executescript("DELETE FROM pods; DELETE FROM intervals; DELETE FROM facts;")
