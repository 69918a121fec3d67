# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads that are checked before they are used, and the fingerprint of an OpenPGP key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from pathlib import Path
from typing import Any

from ._errors import PodcycleError

_LENGTHS = {"sha256": 64, "sha512": 128, "md5": 32}


class FetchError(PodcycleError):
    code = "fetch"


def fetch_checked(source: str, target: Path, checksum: str, what: str, limit_seconds: float = 3600) -> None:
    """Bring a file from an address or a folder; it stays only when its checksum is right."""
    algorithm, _colon, wanted = checksum.strip().lower().partition(":")
    if len(wanted) != _LENGTHS.get(algorithm) or not re.fullmatch(r"[0-9a-f]+", wanted):
        raise FetchError(f"{what}: {checksum!r} is no checksum; write sha256: and 64 digits (md5: is what NVIDIA publishes)")
    digest, ends = hashlib.new(algorithm), time.monotonic() + limit_seconds
    try:
        with _open(source) as answer, target.open("wb") as stream:
            while block := answer.read(1 << 20):
                if time.monotonic() > ends:
                    raise FetchError(f"{what}: {source} did not arrive within {limit_seconds:.0f} s; put it into a folder and name its path")
                digest.update(block)
                stream.write(block)
    except (OSError, ValueError) as error:
        raise FetchError(f"{what}: {source} could not be fetched: {getattr(error, 'reason', None) or error}") from error
    if digest.hexdigest() != wanted:
        raise FetchError(f"{what}: {source} has the {algorithm} checksum {digest.hexdigest()}, and {wanted} was expected; nothing was run")


def read_key(source: str, what: str) -> bytes:
    try:
        with _open(source) as answer:
            content: bytes = answer.read(1 << 17)
    except (OSError, ValueError) as error:
        raise FetchError(f"{what}: the key {source} could not be fetched: {getattr(error, 'reason', None) or error}") from error
    return content


def _open(source: str) -> Any:
    # Its import takes 0.15 s, too long for every run of a module that has nothing to fetch.
    from ansible.module_utils.urls import open_url

    return open_url(source if "://" in source else Path(source).absolute().as_uri(), timeout=60)


def openpgp_fingerprints(key: bytes) -> list[str]:
    """Fingerprints of the primary keys in a file, armored or not (RFC 4880: SHA-1 over 0x99, length and body of the packet)."""
    if key.lstrip().startswith(b"-----BEGIN PGP"):
        body = key.replace(b"\r\n", b"\n").partition(b"\n\n")[2].partition(b"\n=")[0].partition(b"-----END")[0]
        try:
            key = base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error:
            return []
    found, at = [], 0
    while at < len(key):
        packet = _packet(key, at)
        if packet is None:
            return []
        tag, start, end = packet
        if tag == 6:
            body = key[start:end]
            found.append(hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper())
        at = end
    return found


def _packet(key: bytes, at: int) -> tuple[int, int, int] | None:
    """Tag, start and end of the packet's body; partial lengths do not occur in key files."""
    head, size = key[at], 0
    if head & 0xC0 == 0xC0 and at + 1 < len(key):
        first = key[at + 1]
        if first < 192:
            size, start = first, at + 2
        elif first < 224 and at + 2 < len(key):
            size, start = ((first - 192) << 8) + key[at + 2] + 192, at + 3
        elif first == 255:
            size, start = int.from_bytes(key[at + 2 : at + 6], "big"), at + 6
        else:
            return None
        tag = head & 0x3F
    elif head & 0x80 and head & 3 != 3:
        width = 1 << (head & 3)
        size, start, tag = int.from_bytes(key[at + 1 : at + 1 + width], "big"), at + 1 + width, (head >> 2) & 0xF
    else:
        return None
    return (tag, start, start + size) if start + size <= len(key) else None
