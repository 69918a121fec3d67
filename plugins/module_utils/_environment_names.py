# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment names that older RunPod scripts of the chess bot were driven by, and the variables that they set here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import UsageError, clean_text


def _text(text: str) -> str:
    return text


def _whole(text: str) -> int:
    if not re.match(r"[0-9]{1,6}\Z", text):
        raise ValueError("a whole number")
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in ("0", "1", "true", "false", "yes", "no", "on", "off"):
        raise ValueError("0 or 1")
    return text.lower() in ("1", "true", "yes", "on")


def _price(text: str) -> str | None:
    """0 meant that there is no limit."""
    if not re.match(r"[0-9]{1,6}(\.[0-9]{1,6})?\Z", text):
        raise ValueError("a price in dollars an hour")
    return text if float(text) > 0 else None


def _cloud_type(text: str) -> str:
    if text.lower() not in ("secure", "community", "all"):
        raise ValueError("SECURE, COMMUNITY or ALL")
    return "any" if text.lower() == "all" else text.lower()


class _Secret(ValueError):
    """What is wrong with a value that is not to be printed."""


def _pairs(text: str) -> dict[str, str]:
    """Words of NAME=VALUE, as a shell splits them; they may be secrets, so what is refused is not quoted."""
    try:
        words = shlex.split(text)
    except ValueError as err:
        raise _Secret(f"cannot be split into words of NAME=VALUE: {str(err).lower()}") from None
    pairs = {}
    for number, word in enumerate(words, 1):
        name, equals, value = word.partition("=")
        if not equals or not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", name):
            raise _Secret(f"must be words of NAME=VALUE, and word {number} of {len(words)} is none")
        pairs[name] = value
    return pairs


# Name, the variable or the key of a dictionary variable, how its text is read, and what it says.
NAMES: tuple[tuple[str, str, Callable[[str], Any], str], ...] = (
    ("RUNPOD_CYCLE_RUN_ID", "run_id", _text, "names the run"),
    ("RUNPOD_GPU_TYPE_ID", "gpu", _text, "the GPU model; unlike before also by its name or a part of it"),
    ("RUNPOD_GPU_COUNT", "gpu_count", _whole, "GPUs in each pod"),
    ("RUNPOD_MIN_MEMORY_GB", "min_vram_gib", _whole, "least memory of one GPU"),
    ("RUNPOD_MAX_HOURLY_PRICE", "max_usd_per_hour", _price, "price cap of one pod; 0 for none"),
    ("RUNPOD_CONTAINER_DISK_GB", "disk_gib", _whole, "container disk"),
    ("RUNPOD_VOLUME_GB", "volume_gib", _whole, "persistent volume; 0 for none"),
    ("RUNPOD_INTERRUPTIBLE", "spot", _truth, "a spot pod"),
    ("RUNPOD_START_ENVS", "pod_env", _pairs, "environment of the container, as words of NAME=VALUE"),
    ("RUNPOD_CLOUD_TYPE", "runpod.cloud_type", _cloud_type, "SECURE, COMMUNITY or ALL"),
    ("RUNPOD_TEMPLATE_NAME", "runpod.template", _text, "the template, by name or a unique part of it"),
    ("RUNPOD_TEMPLATE_ID", "runpod.template", _text, "the template, by its id"),
    ("RUNPOD_USE_PRESET_ENV", "runpod.preset_env", _truth, "also set the environment of the training image"),
    ("RUNPOD_SSH_READY_TIMEOUT_SECONDS", "waits.sshd", _whole, "how long SSH is waited for"),
)


def read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The variables that the environment sets; those of a dictionary stand apart, as `runpod_environment` and `waits_environment`."""
    found: dict[str, Any] = {}
    for name, variable, read, _meaning in NAMES:
        text = environ.get(name, "").strip()
        if not text:
            continue
        try:
            value = read(text)
        except _Secret as err:
            raise UsageError(f"the environment variable {name} {err}", hint=f"mend it (quotes hold spaces, as in A=\"x y\"), or: unset {name}") from None
        except ValueError as err:
            raise UsageError(f"the environment variable {name} is {clean_text(text, 60)!r}; it must be {err}", hint=f"mend it, or: unset {name}") from err
        group, _dot, key = variable.rpartition(".")
        if group:
            found.setdefault(f"{group}_environment", {})[key] = value
        else:
            found[variable] = value
    return found
