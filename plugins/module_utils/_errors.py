# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exceptions that carry data, and the one function that turns them into a failure.

Every exception says what was tried and what was answered; C(effect) tells whether the
other side may have acted: V(none) means surely not, V(unknown) means nobody can say.
"""

from __future__ import annotations

from typing import Any

EFFECT_NONE = "none"
EFFECT_UNKNOWN = "unknown"
_LONGEST = 8000
# How advice names another playbook of ours, until it is told the way a person typed this one.
BARE = "ansible-playbook playbooks/"


def clean_text(value: object, limit: int = 400) -> str:
    """One printable line of at most `limit` characters, from text that a stranger sent: no control, no bidirectional and no half characters."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value)[: 16 * limit]).strip()
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


def clean_tree(value: Any, limit: int = 400) -> Any:
    """The same with every text in it as `clean_text` leaves it, keys too."""
    if isinstance(value, dict):
        return {clean_text(key, limit): clean_tree(one, limit) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_tree(one, limit) for one in value]
    return clean_text(value, limit) if isinstance(value, str) else value


class PodcycleError(Exception):
    """Base of every failure that the collection explains itself."""

    code = "error"
    # What to do next, where the one who raises knows nothing better.
    remedy = ""

    def __init__(self, message: str, *, hint: str = "", effect: str = EFFECT_NONE, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.remedy
        self.effect = effect
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(PodcycleError):
    """The caller's wish cannot be carried out as written."""

    code = "bad_input"


class CredentialError(PodcycleError):
    code = "no_key"


class StateError(PodcycleError):
    """The state folder, the ledger or a lock is not usable."""

    code = "state"


class LedgerDamaged(StateError):
    code = "ledger_damaged"


class WaitTimeout(PodcycleError):
    """A wait ended without its condition; `details` carry the phase and the last state seen."""

    code = "timeout"
    remedy = "type the same command again: it goes on where it was"


class CloudError(PodcycleError):
    """A cloud answered with an error, strangely, or not at all."""

    code = "cloud_error"
    remedy = "type the same command again: it goes on where it was"


class Unauthorized(CloudError):
    code = "unauthorized"
    remedy = "the key is unknown or was revoked: set a valid one, then type the same command again"


class Forbidden(CloudError):
    code = "forbidden"
    remedy = "give the key the right in the provider's console, or use another key"


class ProxyRefused(CloudError):
    """Something between us and the API refused: not a verdict on the key."""

    code = "proxy_refused"


class PaymentRequired(CloudError):
    code = "payment_required"
    remedy = "add funds to the account, then type the same command again"


class NotFound(CloudError):
    code = "not_found"


class Conflict(CloudError):
    code = "conflict"


class InvalidRequest(CloudError):
    code = "invalid_request"
    remedy = "change what the cloud names, then type the same command again"


class NoCapacity(CloudError):
    code = "no_capacity"


class RateLimited(CloudError):
    code = "rate_limited"
    remedy = "wait a minute, then type the same command again: it goes on where it was"


class ServerError(CloudError):
    code = "server_error"


class Unreachable(CloudError):
    """The request was never sent: the connection could not be made."""

    code = "unreachable"


class NoReply(CloudError):
    """The request was sent and no whole answer came back."""

    code = "no_reply"


class StrangeHostKey(CloudError):
    """Something else than the pod of the first contact answers at its address."""

    code = "host_key"


class SchemaError(CloudError):
    """The answer does not have the shape that the provider documents."""

    code = "schema"
    remedy = "the API may have changed: update podcycle.gpu, and look after the pods in the provider's console until then"


class PodFailed(CloudError):
    """A pod ended by itself before it was of any use."""

    code = "pod_failed"


class CrashLoop(PodFailed):
    """The container ends each time it starts."""

    code = "crash_loop"


class LeaseUnknown(CloudError):
    """A create may or may not have taken effect; the ledger keeps the lease open."""

    code = "lease_unknown"


class StillAlive(CloudError):
    """A pod was given back but is still there."""

    code = "still_alive"


def failure(error: PodcycleError) -> dict[str, Any]:
    """The failure that a module hands to fail_json: O(msg) for people, O(failure) for programs."""
    details = {key: value for key, value in error.details.items() if value is not None}
    return {
        # Every error quotes somebody: a cloud, a pod, a program.
        "msg": clean_text(error, _LONGEST),
        "failure": {"code": error.code, "message": clean_text(error.message, _LONGEST), "effect": error.effect, "details": clean_tree(details, _LONGEST)},
    }
