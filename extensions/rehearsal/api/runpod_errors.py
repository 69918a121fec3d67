# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's error replies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

NO_INSTANCES = "There are no longer any instances available with the requested specifications. Please refresh and try again."
NO_DISK = "There are no longer any instances available with enough disk space."
HOST_FULL = "There are not enough free GPUs on the host machine to start this pod."
BALANCE = "Your account balance is too low to start this pod. Please add funds and try again."
NO_SPOT = "There are no instances available with the requested specifications. Please try again later."
SPOT_AS_ON_DEMAND = "Cannot resume a spot pod as an on demand pod."
GENERIC = "Something went wrong. Please try again later or contact support."
# In the words of the GraphQL API, where they were seen; REST v2 documents a 400 for templates and registries, and nothing for volumes.
VOLUME_IN_USE = "You must remove this network volume from all pods before deleting it."
TEMPLATE_IN_USE = "Template is in use by a pod or serverless endpoint and cannot be deleted."
REGISTRY_IN_USE = "Registry credential is in use by a pod and cannot be deleted."
LOCKED = "This pod is locked. Unlock it first."
TITLES = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict",
          422: "Unprocessable Entity", 500: "Internal Server Error", 503: "Service Unavailable"}  # fmt: skip


class ProblemError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors

    def response(self) -> Response:
        return problem(self.status, TITLES.get(self.status, "Error"), self.detail, self.errors)


def problem(status: int, title: str, detail: str, errors: list[dict[str, str]] | None = None, headers: Mapping[str, str] | None = None) -> Response:
    body: dict[str, Any] = {"title": title, "status": status, "detail": detail}
    if errors:
        body["errors"] = [f"{one['location'].replace('body', '$', 1)}: {one['message']}" for one in errors]
    return Response(json.dumps(body), status, dict(headers or {}), "application/problem+json")
