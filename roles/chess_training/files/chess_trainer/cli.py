# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line. Checks what can be checked before the slow imports are made."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import __version__
from .errors import EXIT_DATA, EXIT_FAILED, EXIT_OK, EXIT_STOPPED, DataError, TrainerError
from .settings import PHASES, PRESETS, SCHEDULES


def _emit(value: dict[str, Any]) -> None:
    print(json.dumps(value, sort_keys=True, allow_nan=False), flush=True)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _dataset_check(arguments: argparse.Namespace) -> int:
    from . import dataset

    code, verdict = dataset.check(arguments.directory, arguments.remember)
    _emit(verdict)
    return code


def _dataset_build(arguments: argparse.Namespace) -> int:
    from . import build

    recipe = build.Recipe(arguments.games, arguments.seed, arguments.val_fraction, arguments.min_plies)
    if arguments.from_gnuchess_book:
        statistics = build.build_from_gnuchess_book(arguments.out, recipe, arguments.source, _note)
    else:
        statistics = build.build_from_files(arguments.out, recipe, arguments.pgn, arguments.moves)
    _emit(statistics)
    return EXIT_OK


def _dataset_seal(arguments: argparse.Namespace) -> int:
    from . import hub

    _emit(hub.seal(arguments.directory))
    return EXIT_OK


def _dataset_fetch(arguments: argparse.Namespace) -> int:
    from . import hub

    _emit(hub.fetch(arguments.repo, arguments.revision, arguments.prefix, arguments.out))
    return EXIT_OK


def _dataset_publish(arguments: argparse.Namespace) -> int:
    from . import hub

    _emit(hub.publish(arguments.directory, arguments.repo, arguments.revision, arguments.prefix, arguments.public, arguments.yes))
    return EXIT_OK


def _train(arguments: argparse.Namespace) -> int:
    from . import launch, settings, train

    count = launch.processes(arguments)
    if arguments.dry_run:
        asked = settings.requested(arguments)
        if arguments.dry_run == "all":
            settings.refuse_data(arguments)
        _emit(asked | {"processes": count, "without_effect": settings.without_effect(arguments)})
        return EXIT_OK
    return launch.run(arguments, count) if count > 1 else train.run(arguments)


def _preset(arguments: argparse.Namespace) -> int:
    from . import preset

    return preset.run(arguments)


def _infer(arguments: argparse.Namespace) -> int:
    from . import infer

    try:
        _emit(infer.infer(arguments.model, arguments.context, arguments.topk, arguments.device))
    except TrainerError as error:
        _emit({"ok": False, "error": str(error), "context": arguments.context})
        _note(f"infer: {error}")
        return error.exit_code
    return EXIT_OK


def _validate(arguments: argparse.Namespace) -> int:
    from . import validate

    verdict = validate.validate(arguments)
    _emit(verdict)
    if verdict["ok"]:
        return EXIT_OK
    _note("validate: " + "; ".join(check["detail"] for check in verdict["checks"] if not check["ok"]))
    return EXIT_FAILED


def _positive(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
        return value

    parse.__name__ = "number"
    return parse


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _processes(text: str) -> int:
    return 0 if text == "auto" else int(_positive(int)(text))


for _kind in (_processes, _count, _share, _fraction):
    # What argparse calls a word that cannot be read.
    _kind.__name__ = "number"


def _weights(text: str) -> tuple[float, float, float]:
    """Weights of the three phases, from text such as opening=1,endgame=2."""
    found = dict.fromkeys(PHASES, 1.0)
    for part in text.split(","):
        name, _equals, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name not in found or not 0 <= number < 1e6:
            raise argparse.ArgumentTypeError(f"{part!r} is not PHASE=WEIGHT with opening, middlegame or endgame and a weight of 0 or more")
        found[name] = number
    if not any(found.values()):
        raise argparse.ArgumentTypeError("all three weights are 0, so nothing would be learned")
    return found["opening"], found["middlegame"], found["endgame"]


def _add_dataset(commands: Any) -> None:
    dataset = commands.add_parser("dataset", help="check or build a data folder").add_subparsers(dest="action", required=True)
    check = dataset.add_parser("check", help="check every row and move of a data folder; needs the standard library only")
    check.add_argument("directory", type=Path)
    check.add_argument("--remember", type=Path, metavar="FILE", help="keep a good verdict there, and take it from there while the data are the same")
    check.set_defaults(run=_dataset_check)
    build = dataset.add_parser("build", help="build a data folder from recorded games")
    build.add_argument("--out", type=Path, required=True)
    build.add_argument("--pgn", type=Path, nargs="*", default=[], help="PGN files")
    build.add_argument("--moves", type=Path, nargs="*", default=[], help="text files, one game in UCI moves per line")
    build.add_argument("--from-gnuchess-book", action="store_true", help="Debian's public-domain collection of 145,716 master games")
    build.add_argument("--source", type=Path, help="the archive of gnuchess-book, when it is here already")
    build.add_argument("--games", type=_count, default=0, help="how many games to keep; 0 keeps all")
    build.add_argument("--seed", type=_count, default=7)
    build.add_argument("--val-fraction", type=_fraction, default=0.1)
    build.add_argument("--min-plies", type=_positive(int), default=10)
    build.set_defaults(run=_dataset_build)
    seal = dataset.add_parser("seal", help="check a data folder and write its manifest.json and checksums.sha256")
    seal.add_argument("directory", type=Path)
    seal.set_defaults(run=_dataset_seal)
    fetch = dataset.add_parser("fetch", help="fetch a data set from Hugging Face; HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are respected")
    fetch.add_argument("--out", type=Path, required=True)
    fetch.set_defaults(run=_dataset_fetch)
    publish = dataset.add_parser("publish", help="upload a sealed data folder to Hugging Face as one commit")
    publish.add_argument("directory", type=Path)
    publish.add_argument("--public", action="store_true", help="the repository may be public, and is made so where there is none; private otherwise")
    publish.add_argument("--yes", action="store_true", help="do it; without, say what would be uploaded")
    publish.set_defaults(run=_dataset_publish)
    for command in (fetch, publish):
        command.add_argument("--repo", required=True, help="OWNER/NAME")
        command.add_argument("--revision", default="main", help="branch, tag or commit (main)")
        command.add_argument("--prefix", default="", help="folder inside the repository")


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a model", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    train.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and val.jsonl")
    train.add_argument("--run-dir", type=Path, required=True)
    dry = "check what is asked against the data and write nothing; wants no PyTorch. With options: the options alone, for data that are elsewhere"
    train.add_argument("--dry-run", nargs="?", const="all", choices=("all", "options"), help=dry)
    train.add_argument("--preset", choices=PRESETS, default="smoke")
    train.add_argument("--seed", type=_count, default=7)
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--max-seconds", type=_positive(float), help="time budget of the training, resumptions included")
    budget.add_argument("--max-steps", type=_positive(int), help="number of optimizer steps")
    budget.add_argument("--max-epochs", type=_positive(int), help="passes over the data")
    train.add_argument("--resume", default="auto", help="auto, never, or the path of a checkpoint")
    train.add_argument("--batch-size", type=_positive(int), help="positions per step; the preset's by default")
    train.add_argument("--lr", type=_positive(float), help="peak learning rate; the preset's by default")
    train.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    train.add_argument("--device", default="auto")
    train.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    train.add_argument("--deterministic", action="store_true", help="deterministic algorithms, slower on a GPU")
    train.add_argument("--threads", type=_count, default=0, help="CPU threads; 0 takes all that are allotted but one")
    train.add_argument("--min-context", type=_count, default=0, help="learn only positions with this many moves before them")
    train.add_argument("--eval-positions", type=_positive(int), help="validation positions that are scored, evenly spread; the preset's number by default")
    train.add_argument("--evaluations", type=_count, help="evaluations before the last one; the preset's number by default")
    train.add_argument("--checkpoint-seconds", type=_positive(float), default=15.0)
    train.add_argument("--cache-dir", type=Path, help="where encoded positions are kept")
    train.add_argument("--processes", type=_processes, default=0, help="processes that share each batch, or auto: one for each GPU")
    train.add_argument("--schedule", choices=SCHEDULES, default="linear", help="the learning rate decays over the budget, or when the validation loss stalls")
    train.add_argument("--plateau-factor", type=_fraction, default=0.5, help="what the learning rate is multiplied with then")
    train.add_argument("--plateau-patience", type=_count, default=3, help="evaluations without improvement before that")
    train.add_argument("--plateau-threshold", type=_share, default=1e-4, help="share of the best loss that counts as improvement")
    train.add_argument("--early-stop-patience", type=_count, default=0, help="end after so many evaluations without improvement; 0 never does")
    train.add_argument("--early-stop-min-delta", type=_share, default=0.0, help="how much lower the validation loss has to be to count as improvement")
    train.add_argument("--phase-weights", type=_weights, default=(1.0, 1.0, 1.0), help="weights of the loss, such as opening=1,middlegame=1,endgame=2")
    train.add_argument("--stop-after-steps", type=_positive(int), help="save and stop there, as if a signal had come")
    train.set_defaults(run=_train)


def _add_preset(commands: Any) -> None:
    from .preset import epilog

    preset = commands.add_parser(
        "preset", help="train as the environment says", prog="train_baseline_preset.sh", epilog=epilog(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    preset.add_argument("--dry-run", action="store_true", help="check everything, say what would be done, write nothing")
    preset.add_argument("--workspace", type=Path, default=Path("/workspace"), help="folder that the pod keeps its work in (/workspace)")
    preset.add_argument("--defaults", default="{}", help=argparse.SUPPRESS)
    preset.add_argument("more", nargs="*", metavar="-- OPTION", help="more options of `python -m chess_trainer train`")
    preset.set_defaults(run=_preset)


def _add_infer(commands: Any) -> None:
    infer = commands.add_parser("infer", help="predict the next move of a game; prints JSON")
    add_infer_arguments(infer)
    infer.set_defaults(run=_infer)


def add_infer_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of infer, which infer_move has too."""
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--context", default="", help="the moves so far, in UCI notation")
    parser.add_argument("--topk", type=_positive(int), default=5)
    parser.add_argument("--device", default="cpu")


def _add_validate(commands: Any) -> None:
    validate = commands.add_parser("validate", help="open a trained model and reproduce its figures; prints JSON")
    validate.add_argument("--model", type=Path, required=True)
    validate.add_argument("--data", type=Path, required=True, action="append", help="folder with val.jsonl; of several, the one that the run was scored on")
    validate.add_argument("--run-dir", type=Path, required=True, help="the run's folder with manifest.json")
    validate.add_argument("--output", type=Path, help="also write the verdict here")
    validate.add_argument("--context", default="", help="also predict the next move of this game")
    validate.add_argument("--infer-output", type=Path, help="write that prediction here, as JSON")
    validate.add_argument("--tolerance", type=_positive(float), default=0.005, help="largest difference of a rate")
    validate.add_argument("--min-raw-legal", type=float, default=0.0, help="smallest share of legal first choices without a mask")
    validate.add_argument("--device", default="cpu")
    validate.add_argument("--cache-dir", type=Path)
    validate.set_defaults(run=_validate)


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    root = argparse.ArgumentParser(prog="chess_trainer", description="Train a chess policy on recorded games.")
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True)
    _add_train(commands)
    _add_preset(commands)
    _add_infer(commands)
    _add_validate(commands)
    _add_dataset(commands)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one command and turn its errors into a sentence and an exit code."""
    # Read by OpenMP when PyTorch is loaded: waiting threads sleep instead of keeping a core busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = parser().parse_args(argv)
    arguments.words = sys.argv[1:] if argv is None else list(argv)
    # Models and verdicts are nobody else's to read.
    os.umask(0o077)
    from . import launch, train

    code, said = EXIT_FAILED, "ended by an error that it did not expect"
    try:
        code, said = int(arguments.run(arguments)), ""
    except TrainerError as error:
        code, said = EXIT_DATA if isinstance(error, DataError) else error.exit_code, str(error)
        # The leading process speaks for all, unless another one failed by itself.
        if train.leads() or code != EXIT_STOPPED:
            _note(f"{arguments.command}: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" {error.filename}" if error.filename else ""
        code, said = EXIT_FAILED, f"cannot write{where}: {error.strerror}; make room, then run the same command again to go on from the last checkpoint"
        _note(f"{arguments.command}: {said}")
    finally:
        launch.leave_word(code, said)
    return code
