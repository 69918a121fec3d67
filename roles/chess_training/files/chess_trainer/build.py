# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build train.jsonl and val.jsonl from recorded games: deterministic, split by game, with statistics."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import pgn
from .board import Position
from .errors import DataError, MissingError, UsageError
from .files import sha256_file, write_bytes, write_json

GNUCHESS_ARCHIVE = "gnuchess-book_1.02.orig.tar.gz"
GNUCHESS_SHA256 = "d673ffa6986a3beca27cc23ef126ea0a73f1098762e3ccd00f791c096f2bfb48"
DEBIAN = "http://deb.debian.org/debian"
GNUCHESS_MEMBER = "gnuchess-book-1.02/book_1.02.pgn"
Report = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """What to keep and how to split it."""

    games: int = 0
    seed: int = 7
    val_fraction: float = 0.1
    min_plies: int = 10


def _rank(seed: int, moves: str) -> bytes:
    return hashlib.blake2b(moves.encode(), digest_size=16, salt=seed.to_bytes(8, "little")).digest()


def pgn_games(path: Path, skipped: list[str]) -> Iterator[list[str]]:
    """The games of a PGN file; those that cannot be played are counted in skipped."""
    with path.open(encoding="utf-8", errors="replace") as handle:
        for line, text in pgn.games(handle):
            try:
                yield pgn.moves_of(text)
            except ValueError as error:
                skipped.append(f"{path.name}, game at line {line}: {error}")


def move_list_games(path: Path) -> Iterator[list[str]]:
    """The games of a text file with one game in UCI moves per line."""
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            moves = line.split()
            if not moves:
                continue
            position = Position()
            for text in moves:
                reason = position.play_uci(text)
                if reason is not None:
                    raise DataError(path.name, number, reason)
            yield moves


def select(games: Iterable[list[str]], recipe: Recipe) -> tuple[list[str], list[str], dict[str, int]]:
    """Drop short games and doubles, keep the first N in a seeded order, and split them by game."""
    counts = {"read": 0, "too_short": 0, "double": 0}
    ranked: dict[bytes, str] = {}
    for moves in games:
        counts["read"] += 1
        if len(moves) < recipe.min_plies:
            counts["too_short"] += 1
            continue
        text = " ".join(moves)
        key = _rank(recipe.seed, text)
        counts["double"] += key in ranked
        ranked[key] = text
    order = [ranked[key] for key in sorted(ranked)][: recipe.games or None]
    if recipe.games and len(order) < recipe.games:
        raise UsageError(f"{recipe.games} games were asked for, but the source has only {len(order)} different games of {recipe.min_plies} plies or more")
    held_out = max(1, round(len(order) * recipe.val_fraction))
    if len(order) <= held_out:
        raise UsageError(f"{len(order)} games are too few to hold out {held_out} for validation")
    return order[held_out:], order[:held_out], counts


def _file_statistics(path: Path, games: list[str]) -> dict[str, Any]:
    plies = sorted(len(game.split()) for game in games)
    return {
        "sha256": sha256_file(path),
        "bytes": path.stat().st_size,
        "games": len(games),
        "positions": sum(plies),
        "plies": {"min": plies[0], "median": plies[len(plies) // 2], "max": plies[-1]},
    }


def write(out: Path, games: Iterable[list[str]], recipe: Recipe, source: dict[str, Any], skipped: list[str]) -> dict[str, Any]:
    """Write the data folder and return its statistics."""
    train, val, counts = select(games, recipe)
    out.mkdir(parents=True, exist_ok=True)
    statistics: dict[str, Any] = {
        "format": "plain",
        "source": source,
        "recipe": vars(recipe),
        "counts": counts | {"unplayable": len(skipped)},
        "unplayable": skipped[:20],
        "files": {},
    }
    for name, part in (("train.jsonl", train), ("val.jsonl", val)):
        lines = "".join(json.dumps({"moves": game}, separators=(",", ":")) + "\n" for game in part)
        write_bytes(out / name, lines.encode())
        statistics["files"][name] = _file_statistics(out / name, part)
    write_json(out / "stats.json", statistics)
    # A manifest of other rows would be wrong from here on.
    for name in ("manifest.json", "checksums.sha256"):
        (out / name).unlink(missing_ok=True)
    return statistics


def _mirrors() -> list[str]:
    found = []
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if not path.is_file() or path.suffix not in (".list", ".sources"):
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            match = re.match(r"(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(https?://\S+/debian)/?(?:\s|$)", line)
            if match:
                found.append(match.group(1))
    return list(dict.fromkeys(found))


def _apt(folder: Path, *arguments: str) -> None:
    options = ["Dir::Etc::SourceList=" + str(folder / "sources.list"), "Dir::Etc::SourceParts=/dev/null"]
    options += [f"Dir::State::Lists={folder / 'lists'}", f"Dir::Cache={folder / 'cache'}", "APT::Sandbox::User="]
    command = ["apt-get", "-qq", *[part for option in options for part in ("-o", option)], *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MissingError(f"{' '.join(['apt-get', *arguments])} failed: {result.stderr.strip()[-300:]}; or fetch {GNUCHESS_ARCHIVE} and give it with --source")


def fetch_gnuchess_book(folder: Path, report: Report) -> Path:
    """Fetch the source archive of Debian's gnuchess-book with apt, leaving the machine's own sources alone."""
    if shutil.which("apt-get") is None:
        raise MissingError(f"apt-get is not here, so Debian's gnuchess-book cannot be fetched; fetch {GNUCHESS_ARCHIVE} elsewhere and give it with --source")
    # A machine without Debian's sources, such as Ubuntu, may lack its keys too; the archive is known by its sha256.
    mirror, trust = next(((found, "") for found in _mirrors()), (DEBIAN, "[trusted=yes] "))
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb-src {trust}{mirror} bookworm main\n", encoding="utf-8")
    report(f"fetching gnuchess-book from {mirror}")
    _apt(folder, "update")
    _apt(folder, "source", "--download-only", "--tar-only", "gnuchess-book")
    return folder / GNUCHESS_ARCHIVE


def _unpack_gnuchess_book(archive: Path, folder: Path) -> Path:
    found = sha256_file(archive)
    if found != GNUCHESS_SHA256:
        raise DataError(str(archive), 0, f"sha256 is {found}, but {GNUCHESS_ARCHIVE} has {GNUCHESS_SHA256}")
    with tarfile.open(archive) as tar:
        member = tar.extractfile(GNUCHESS_MEMBER)
        if member is None:
            raise DataError(str(archive), 0, f"{GNUCHESS_MEMBER} is not in the archive")
        with (folder / "book.pgn").open("wb") as handle:
            shutil.copyfileobj(member, handle)
    return folder / "book.pgn"


def build_from_gnuchess_book(out: Path, recipe: Recipe, archive: Path | None, report: Report) -> dict[str, Any]:
    """Build from Debian's public-domain collection of master games."""
    with tempfile.TemporaryDirectory(prefix="chess-trainer-") as name:
        folder = Path(name)
        archive = archive or fetch_gnuchess_book(folder, report)
        if not archive.is_file():
            raise MissingError(f"{archive} is not there")
        path = _unpack_gnuchess_book(archive, folder)
        source = {"name": "gnuchess-book 1.02, Debian source package", "licence": "public domain", "file": GNUCHESS_ARCHIVE, "sha256": GNUCHESS_SHA256}
        report("reading the games")
        skipped: list[str] = []
        return write(out, pgn_games(path, skipped), recipe, source, skipped)


def build_from_files(out: Path, recipe: Recipe, pgn_files: list[Path], move_files: list[Path]) -> dict[str, Any]:
    """Build from PGN files and from text files with one game in UCI moves per line."""
    missing = [str(path) for path in pgn_files + move_files if not path.is_file()]
    if missing:
        raise MissingError(f"not there: {', '.join(missing)}")
    skipped: list[str] = []
    source = {"files": [{"name": path.name, "sha256": sha256_file(path)} for path in pgn_files + move_files]}

    def games() -> Iterator[list[str]]:
        for path in pgn_files:
            yield from pgn_games(path, skipped)
        for path in move_files:
            yield from move_list_games(path)

    return write(out, games(), recipe, source, skipped)
