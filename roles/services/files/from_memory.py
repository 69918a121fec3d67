# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs programs of this role on a machine before they lie there: their texts, and what they are asked, come as JSON on standard input."""

from __future__ import annotations

import json
import sys
import types

wish = json.load(sys.stdin)
for name, text in wish.pop("programs").items():
    module = types.ModuleType(name)
    module.__file__ = f"/nowhere/{name}.py"
    sys.modules[name] = module
    exec(compile(text, f"{name}.py", "exec"), module.__dict__)
try:
    print(json.dumps(sys.modules["prepare"].answer(wish)))
except sys.modules["pod_settings"].SettingsError as error:
    sys.exit(f"prepare the services: {error}")
