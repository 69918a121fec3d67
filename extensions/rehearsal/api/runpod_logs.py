# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The log stream of a pod: Server-Sent Events that never end by themselves, and headers that come with the first line only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rehearsal.api.runpod_errors import ProblemError
from rehearsal.logbook import MOST, SOURCES, Line, LogBook
from rehearsal.times import parse_rfc3339, rfc3339

PAUSE = 0.1


async def stream(request: Request, book: LogBook, pod_id: str, read_int: Callable[[Request, str, int, int, int], int]) -> Response:
    sources = request.query_params.getlist("source") or list(SOURCES)
    for source in sources:
        if source not in SOURCES:
            raise ProblemError(422, "validation failed", [{"location": "query.source", "message": "expected container or system"}])
    tail = read_int(request, "tail", 100, 0, MOST)
    since = request.headers.get("last-event-id") or request.query_params.get("since")
    lines = book.read(pod_id, sources)
    if since:
        try:
            after = parse_rfc3339(since)
        except ValueError as error:
            raise ProblemError(400, "since must be an RFC 3339 time.") from error
        first = [line for line in lines if line.at > after]
    else:
        # So many of each source.
        kept = {id(line) for source in sources for line in [one for one in lines if one.source == source][-tail or len(lines) :]} if tail else set()
        first = [line for line in lines if id(line) in kept]
    seen = len(lines)
    while not first:
        if await request.is_disconnected():
            return Response(status_code=499)
        await asyncio.sleep(PAUSE)
        found = book.read(pod_id, sources)
        first, seen = found[seen:], len(found)
    return StreamingResponse(_events(book, pod_id, sources, first, seen), media_type="text/event-stream")


async def _events(book: LogBook, pod_id: str, sources: list[str], first: list[Line], seen: int) -> AsyncIterator[str]:
    fresh = first
    while True:
        for line in fresh:
            moment = rfc3339(line.at)
            yield f"id: {moment}\ndata: {json.dumps({'source': line.source, 'line': line.text, 'ts': moment})}\n\n"
        await asyncio.sleep(PAUSE)
        found = book.read(pod_id, sources)
        fresh, seen = found[seen:], len(found)
