# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our marked block in a text that others write into as well."""

from __future__ import annotations


def marks(marker: str) -> tuple[str, str]:
    return f"# BEGIN {marker}", f"# END {marker}"


def _block_at(lines: list[str], marker: str) -> tuple[int, int] | None:
    """First line of the block and the line after its end; a mark that lost its partner stands alone."""
    begin, end = marks(marker)
    bare = [line.strip() for line in lines]
    for number, line in enumerate(bare):
        if line == end:
            return number, number + 1
        if line == begin:
            for last in range(number + 1, len(bare)):
                if bare[last] == begin:
                    break
                if bare[last] == end:
                    return number, last + 1
            return number, number + 1
    return None


def block_of(text: str, marker: str) -> str | None:
    """The block with its marks; None where there is none."""
    lines = text.splitlines(keepends=True)
    found = _block_at(lines, marker)
    return None if found is None else "".join(lines[found[0] : found[1]])


def remove_block(text: str, marker: str) -> str:
    lines = text.splitlines(keepends=True)
    while (found := _block_at(lines, marker)) is not None:
        del lines[found[0] : found[1]]
    return "".join(lines)


def merge_block(text: str, marker: str, block: str, at: str) -> str:
    """The text with this block in it once; a block that is in place stays where it is."""
    begin, end = marks(marker)
    wanted = f"{begin}\n{block.rstrip(chr(10))}\n{end}\n"
    lines = text.splitlines(keepends=True)
    found = _block_at(lines, marker)
    if found is not None and found[1] - found[0] > 1:
        head, tail = lines[: found[0]], "".join(lines[found[1] :])
        if _block_at(lines[found[1] :], marker) is None and (at != "top" or _only_remarks(head)):
            return "".join(head) + wanted + tail
    rest = remove_block(text, marker)
    if at == "top":
        first, newline, more = rest.partition("\n")
        return f"{first}{newline or chr(10)}{wanted}{more}" if first.startswith("#!") else wanted + rest
    return rest + ("\n" if rest and not rest.endswith("\n") else "") + wanted


def _only_remarks(lines: list[str]) -> bool:
    """Whether nothing but comments and whole blocks of others stand there: two that want to be on top share the top."""
    waiting = ""
    for line in (line.strip() for line in lines):
        if waiting:
            waiting = "" if line == waiting else waiting
        elif line.startswith("# BEGIN "):
            waiting = line.replace("# BEGIN ", "# END ", 1)
        elif line and not line.startswith("#"):
            return False
    return not waiting
