# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the provider and the containers write about pods; kept in memory, lost with the pod."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from rehearsal.records import Pod
from rehearsal.times import now

MOST = 5000
SOURCES = ("container", "system")
# What a host writes when a pod comes into a status; a process pod's container writes nothing itself.
_TOLD = {
    "PROVISIONING": ("create pod network", "create container {image}"),
    "STARTING": ("{image} Pulling from registry", "start container for {image}: begin"),
    "EXITED": ("stop container", "remove container"),
    "ERROR": ("error starting container: {note}",),
}


@dataclass(frozen=True)
class Line:
    at: float
    source: str
    text: str


class LogBook:
    def __init__(self) -> None:
        self._lines: dict[str, deque[Line]] = {}

    def write(self, pod: Pod, source: str, text: str) -> None:
        self._lines.setdefault(pod.id, deque(maxlen=MOST)).append(Line(now(), source, text))

    def status(self, pod: Pod) -> None:
        for text in _TOLD.get(pod.status, ()):
            self.write(pod, "system", text.format(image=pod.image, note=pod.note))

    def read(self, pod_id: str, sources: list[str]) -> list[Line]:
        return [line for line in self._lines.get(pod_id, ()) if line.source in sources]

    def forget(self, pod_id: str | None = None) -> None:
        if pod_id is None:
            self._lines.clear()
        else:
            self._lines.pop(pod_id, None)
