# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that several modules lay out in their round trip."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  files:
    type: list
    elements: dict
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      state:
        description:
          - What is to be there. V(block) is a marked part of a file that others may write too.
          - V(absent) with O(files[].marker) takes only that block out; a file that held nothing else goes with it.
          - A folder is never replaced by something else, and nothing else by a folder.
        type: str
        choices: [file, folder, link, block, absent]
        default: file
      content:
        description: The whole content for O(files[].state=file). An existing content is left when not given.
        type: str
      mode:
        description: Permissions as an octal number in quotes, such as V('0640'). Left as they are when not given.
        type: str
      owner:
        description: Name or number of the owner. Left as it is when not given.
        type: str
      group:
        description: Name or number of the group. Left as it is when not given.
        type: str
      target:
        description: What O(files[].state=link) points to.
        type: str
      marker:
        description: Name of the block, in one line.
        type: str
      text:
        description: Lines of O(files[].state=block).
        type: str
      at:
        description:
          - Where a new block goes. With V(top), a block that has fallen below other lines moves up again; comments and other marked blocks may stand above it.
        type: str
        choices: [top, bottom]
        default: bottom
      recursive:
        description: Let O(files[].state=absent) remove a folder with all that it holds.
        type: bool
        default: false
"""
