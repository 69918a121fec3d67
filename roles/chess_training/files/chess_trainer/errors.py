# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exit codes and the errors that carry them."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DATA = 65
EXIT_MISSING = 66
EXIT_DIVERGED = 70
EXIT_STOPPED = 75


class TrainerError(Exception):
    """An error with a sentence for people and an exit code for programs."""

    exit_code = EXIT_FAILED


class UsageError(TrainerError):
    """The command cannot be done as it was asked."""

    exit_code = EXIT_USAGE


class MissingError(TrainerError):
    """A file that the command needs is not there."""

    exit_code = EXIT_MISSING


class DivergedError(TrainerError):
    """The loss is not a number any more."""

    exit_code = EXIT_DIVERGED


class StoppedError(TrainerError):
    """A signal asked the program to stop."""

    exit_code = EXIT_STOPPED


class DataError(TrainerError):
    """A row of the data cannot be used; names the file, the line and the reason."""

    exit_code = EXIT_DATA

    def __init__(self, file: str, line: int, reason: str) -> None:
        self.file = file
        self.line = line
        self.reason = reason
        super().__init__(f"{file}, line {line}: {reason}" if line else f"{file}: {reason}")
