# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's GraphQL API on the wire: the same pods and belongings as over REST v2, with its own ways to refuse.

A query that does not fit the schema is HTTP 400; nearly everything else is HTTP 200 with `errors` beside `data`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rehearsal.api.graphql_schema import SDL, SPOT
from rehearsal.api.runpod import RunPodApi, note_fault
from rehearsal.api.runpod_errors import GENERIC
from rehearsal.cloud import Cloud
from rehearsal.keys import Key, bearer


class GraphQlApi:
    def __init__(self, cloud: Cloud, rest: RunPodApi) -> None:
        self.cloud = cloud
        self.rest = rest
        self._schemas: dict[bool, Any] = {}

    def routes(self) -> list[Route]:
        return [Route("/graphql", self.answer, methods=["POST"])]

    async def answer(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        token = bearer(request.headers.get("authorization")) or request.query_params.get("api_key")
        key = self.cloud.key(token) if token else None
        if token and key is None:
            return JSONResponse({"errors": [{"message": "Unauthorized"}]}, 401)
        try:
            body = json.loads(await request.body())
            text, variables = body["query"], body.get("variables")
            if not isinstance(text, str) or not isinstance(variables, (dict, type(None))):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError):
            return failed([{"message": "POST body missing, invalid Content-Type, or JSON object has no keys."}], "BAD_REQUEST")
        # The library takes half a second to import, and most rehearsals never ask for it.
        try:
            graphql = await asyncio.to_thread(importlib.import_module, "graphql")
        except ImportError as error:
            return JSONResponse({"errors": [{"message": f"The rehearsal cloud lacks graphql-core ({error}): pip install -r requirements-run.txt"}]}, 501)
        return await self._run(graphql, request, key, text, variables, body.get("operationName"))

    def _refusal(self, request: Request) -> Response | None:
        """The key has no access to this API, or something in front of it refuses the client."""
        fault = self.cloud.faults.take("graphql_refused", request.method, request.url.path)
        if fault is None:
            return None
        note_fault(request, "graphql_refused")
        status = str(fault.params.get("as", "403"))
        if status == "1010":
            return Response("error code: 1010", 403, {"server": "cloudflare"}, "text/plain")
        return JSONResponse({"errors": [{"message": "Unauthorized" if status == "401" else "Forbidden"}]}, int(status))

    def _schema(self, graphql: Any) -> Any:
        """RunPod takes spot pods out of its API step by step: one day the mutation is not there any more."""
        removed = bool(self.cloud.faults.peek("spot_removed"))
        if removed not in self._schemas:
            self._schemas[removed] = graphql.build_schema(SDL.replace(SPOT, "") if removed else SDL)
        return self._schemas[removed]

    async def _run(self, graphql: Any, request: Request, key: Key | None, text: str, variables: dict[str, Any] | None, name: str | None) -> Response:
        from rehearsal.api.graphql_root import Root

        schema = self._schema(graphql)
        try:
            document = graphql.parse(text)
        except graphql.GraphQLError as error:
            return failed([error.formatted], "GRAPHQL_PARSE_FAILED")
        faults = graphql.validate(schema, document)
        if faults:
            return failed([one.formatted for one in faults], "GRAPHQL_VALIDATION_FAILED")
        writes = any(getattr(one, "operation", None) == graphql.OperationType.MUTATION for one in document.definitions)
        if key is not None and not (key.may_write if writes else key.may_read):
            return JSONResponse({"errors": [{"message": "Forbidden"}]}, 403)
        fault = self.cloud.faults.take("graphql_errors", request.method, request.url.path)
        if fault is not None and not fault.params.get("after_effect"):
            return self._spoiled(request, document, fault.params)
        root = Root(self.cloud, self.rest, request, key)
        result = graphql.execute(schema, document, root, variable_values=variables, operation_name=name)
        if not isinstance(result, graphql.ExecutionResult):
            result = await result
        if fault is not None:
            return self._spoiled(request, document, fault.params)
        errors = [formatted(one) for one in result.errors or []]
        if result.data is None and errors and not any("path" in one for one in errors):
            return failed(errors, "BAD_USER_INPUT")
        return JSONResponse({"data": result.data, **({"errors": errors} if errors else {})})

    def _spoiled(self, request: Request, document: Any, params: dict[str, Any]) -> Response:
        note_fault(request, "graphql_errors")
        fields = [one.name.value for one in document.definitions[0].selection_set.selections]
        error = {"message": params.get("message", GENERIC), "path": fields[:1], "extensions": {"code": params.get("code", "INTERNAL_SERVER_ERROR")}}
        return JSONResponse({"data": dict.fromkeys(fields), "errors": [error]})


def formatted(error: Any) -> dict[str, Any]:
    """What a resolver did not expect is told in general words, as the real one does."""
    if error.original_error is not None and not error.extensions:
        return {**error.formatted, "message": GENERIC, "extensions": {"code": "INTERNAL_SERVER_ERROR"}}
    shown: dict[str, Any] = error.formatted
    return shown


def failed(errors: list[dict[str, Any]], code: str) -> Response:
    return JSONResponse({"errors": [{**one, "extensions": {"code": code}} for one in errors]}, 400)
