# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: ssh_options
short_description: The words that ssh is given, as lines of ssh_config
version_added: 0.1.0
author: podcycle.gpu contributors (@podcycle)
description:
  - Reads C(ansible_ssh_common_args) and its like as Ansible and ssh(1) read them, and says the same with the keywords of ssh_config(5).
  - What only makes sense on a command line, such as C(-W), C(-N) or a forwarded port, is left out.
positional: _input
options:
  _input:
    description: The words, quoted as a shell wants them.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: A jump host, and an option with blanks in it
  ansible.builtin.debug:
    msg: "{{ '-J me@bastion -o \"ServerAliveInterval 15\"' | podcycle.gpu.ssh_options }}"
"""

RETURN = r"""
_value:
  description: Keyword and value of each line, in the order in which ssh takes the first that it finds.
  type: list
  elements: list
  sample: [[ProxyJump, me@bastion], [ServerAliveInterval, "15"]]
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator

from ansible.errors import AnsibleFilterError

# getopt's string of ssh(1), OpenSSH 9.9: which letters take a word.
_WITH_WORD = frozenset("bceilmopwBDEFIJLOPQRSW")
_FLAGS = {
    "4": [("AddressFamily", "inet")],
    "6": [("AddressFamily", "inet6")],
    "A": [("ForwardAgent", "yes")],
    "a": [("ForwardAgent", "no")],
    "C": [("Compression", "yes")],
    "g": [("GatewayPorts", "yes")],
    "K": [("GSSAPIAuthentication", "yes"), ("GSSAPIDelegateCredentials", "yes")],
    "k": [("GSSAPIDelegateCredentials", "no")],
    "M": [("ControlMaster", "yes")],
    "q": [("LogLevel", "QUIET")],
    "X": [("ForwardX11", "yes")],
    "x": [("ForwardX11", "no")],
    "Y": [("ForwardX11", "yes"), ("ForwardX11Trusted", "yes")],
}
_KEYWORDS = {
    "B": "BindInterface",
    "F": "Include",
    "I": "PKCS11Provider",
    "J": "ProxyJump",
    "S": "ControlPath",
    "b": "BindAddress",
    "c": "Ciphers",
    "i": "IdentityFile",
    "l": "User",
    "m": "MACs",
    "p": "Port",
}
_OPTION = re.compile(r"\s*([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*\S)\s*\Z", re.DOTALL)


def ssh_options(text: str) -> list[list[str]]:
    try:
        words = shlex.split(str(text))
    except ValueError as error:
        raise AnsibleFilterError(f"read the words for ssh {text!r}: {error}; see ansible_ssh_common_args and its like in the inventory") from error
    return [[keyword, value] for keyword, value in _read(words)]


def _read(words: list[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        # A host or a command, which Ansible puts there itself.
        if not word.startswith("-") or word in ("-", "--"):
            continue
        for place, letter in enumerate(word[1:], 2):
            if letter in _WITH_WORD:
                given = word[place:] or next(rest, "")
                if not given:
                    raise AnsibleFilterError(f"read the words for ssh {shlex.join(words)!r}: -{letter} wants a word behind it")
                yield from _line(letter, given)
                break
            yield from _FLAGS.get(letter, [])


def _line(letter: str, given: str) -> Iterator[tuple[str, str]]:
    # A line break would begin a line of its own.
    if any(ord(char) < 32 and char != "\t" for char in given):
        raise AnsibleFilterError(f"read the words for ssh: {given!r} holds a line break or another control character")
    if letter == "o":
        match = _OPTION.match(given)
        # One without a value ssh itself refuses, on that host alone.
        if match is not None:
            yield match[1], match[2]
    elif letter == "F":
        # ssh_config has no way to say that no other file counts, and a file of it is the only one anyway.
        if given != "none":
            yield "Include", _quoted(_placed(given))
    elif letter == "i":
        yield "IdentityFile", _quoted(_placed(given))
    elif letter in _KEYWORDS:
        yield _KEYWORDS[letter], _quoted(given)


def _placed(path: str) -> str:
    """Ansible starts ssh in its own folder; a relative path would be looked for in ~/.ssh."""
    return path if path.startswith(("~", "/", "%", "${")) else os.path.abspath(path)


def _quoted(value: str) -> str:
    return f'"{value}"' if re.search(r"\s", value) else value


class FilterModule:
    def filters(self) -> dict[str, Callable[[str], list[list[str]]]]:
        return {"ssh_options": ssh_options}
