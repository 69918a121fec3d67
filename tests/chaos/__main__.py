# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m chaos, with tests and tests/support on the path."""

import sys

from chaos.main import main

if __name__ == "__main__":
    sys.exit(main())
