# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands and files through a real shell on a real terminal, with somebody in between who damages, loses, delays and cuts."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _gateway as gateway
from ansible_collections.podcycle.gpu.plugins.module_utils import _gateway_agent as agent
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway import Session
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_agent import AGENT, loader, posix_cksum
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_parts import RemoteFile, Secret, SessionLost
from support.terminal import TerminalShell

Make = Callable[..., tuple[Session, TerminalShell]]
BASH, DASH = ["bash", "-l", "-i"], ["dash", "-i"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "STALL_SECONDS", 1.0)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[TerminalShell] = []
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()

    def begin(command: list[str] | None = None, silence: float = 20.0, **environment: str) -> tuple[Session, TerminalShell]:
        known = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PATH": os.environ["PATH"], "TERM": "xterm", "SHELL": "/bin/bash"}
        shell = TerminalShell(command or BASH, {**known, **environment})
        made.append(shell)
        return Session(*shell.ends, silence).begin(30), shell

    yield begin
    for shell in made:
        shell.close()


def flip(one_in: int, seed: int) -> Callable[[bytes], bytes]:
    """One byte in so many is another one."""
    dice = random.Random(seed)
    return lambda content: bytes(byte ^ (1 << dice.randrange(7)) if dice.randrange(one_in) == 0 else byte for byte in content)


def lose(one_in: int, seed: int) -> Callable[[bytes], bytes]:
    dice = random.Random(seed)
    return lambda content: bytes(byte for byte in content if dice.randrange(one_in))


@pytest.mark.parametrize("shell", [BASH, DASH], ids=["bash", "dash"])
@pytest.mark.parametrize("status", [0, 1, 126, 255])
def test_exit_status_and_both_outputs_are_exact(make: Make, status: int, shell: list[str]) -> None:
    session, _line = make(shell)
    done = session.run(f"printf 'no newline'; printf 'a\\r\\n\\033[31mb' >&2; exit {status}".encode())
    assert (done.status, done.stdout, done.stderr) == (status, b"no newline", b"a\r\n\x1b[31mb")


def test_commands_of_every_kind(make: Make) -> None:
    session, _line = make()
    assert session.run(b"kill -KILL $$").status == 137
    assert session.run(b"no-such-program").status == 127
    assert session.run("echo 'grün ✓'".encode()).stdout.decode() == "grün ✓\n"
    long = "x" * 10_000
    assert session.run(f"echo {long}".encode()).stdout == f"{long}\n".encode()
    assert session.run(b"cat; echo end").stdout == b"end\n", "nothing to read is an end at once"
    assert session.run(b"read -r line </dev/tty || echo no terminal").stdout == b"no terminal\n"
    assert session.run(b"echo $-; [[ a == a ]] && pwd").stdout.splitlines()[1].endswith(b"/home")
    assert session.run(b"sleep 100 & echo $!").stdout.strip().isdigit(), "who stays behind holds nobody up"
    assert session.run(b"printf 'Z 1 2\\nR abc\\n.\\n'").stdout == b"Z 1 2\nR abc\n.\n"
    assert session.seq == 9


def test_much_goes_both_ways(make: Make) -> None:
    session, _line = make()
    content = random.Random(1).randbytes(300_000)
    done = session.run(b"cat; head -c 70000 /dev/zero >&2", content)
    assert done.stdout == content and done.stderr == bytes(70_000)
    every = bytes(range(256)) * 4096
    assert session.run(b"cat", every[:1000]).stdout == every[:1000]
    megabyte = session.run(b"i=0; while [ $i -lt 65536 ]; do printf '0123456789abcde\\n'; i=$((i+1)); done")
    assert megabyte.stdout == b"0123456789abcde\n" * 65536 and session.pace.damaged == 0


def test_a_command_is_not_run_twice_when_its_confirmation_is_lost(make: Make, tmp_path: Path) -> None:
    session, line = make()
    marker = session.marker
    lost: list[bytes] = []

    def swallow(content: bytes) -> bytes:
        if marker + b" B " in content and len(lost) < 1:
            lost.append(content)
            return b""
        return content

    line.down = swallow
    done = session.run(f"echo once >> {tmp_path}/count; echo out; exit 3".encode())
    assert (done.status, done.stdout) == (3, b"out\n") and len(lost) == 1
    assert (tmp_path / "count").read_text() == "once\n"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("damage", [flip, lose], ids=["flipped", "lost"])
def test_what_is_damaged_is_sent_again(make: Make, damage: Callable[[int, int], Callable[[bytes], bytes]], seed: int) -> None:
    session, line = make()
    content = random.Random(seed).randbytes(60_000)
    line.up = damage(20_000, seed)
    line.down = damage(40_000, seed)
    assert session.run(b"cat", content).stdout == content
    assert session.pace.damaged > 0
    line.up = line.down = lambda content: content
    seen = [session.pace.damaged]
    for _turn in range(3):
        assert session.run(b"cat", content).stdout == content
        seen.append(session.pace.damaged)
    # A line that a busy machine confirms late is asked about as one that was lost.
    assert any(before == after for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize(
    ("way", "said", "instead"),
    [("up", b"\nZ 3060 ", b"\nZ 360 "), ("up", b"W i 3060 ", b"W i 0 "), ("up", b"G o 24576 24576", b"G o 24576 34576"), ("down", b" X 1 3 ", b" X 1 0 ")],
)
def test_damage_to_what_frames_the_content_is_noticed(make: Make, way: str, said: bytes, instead: bytes) -> None:
    session, line = make()
    hits: list[bytes] = []

    def change(content: bytes) -> bytes:
        if said in content and not hits:
            hits.append(said)
            return content.replace(said, instead, 1)
        return content

    setattr(line, way, change)
    content = random.Random(5).randbytes(60_000)
    done = session.run(b"cat; exit 3", content)
    assert hits and (done.status, done.stdout == content) == (3, True)


def test_lines_are_short_and_bursts_are_bounded(make: Make) -> None:
    session, line = make()
    seen: list[bytes] = []
    line.up = lambda content: seen.append(content) or content  # type: ignore[func-returns-value]
    session.run(b"cat " + b"x" * 5000, os.urandom(50_000))
    assert max(len(row) for row in b"".join(seen).split(b"\n")) <= 255
    assert max(len(row) for row in AGENT.splitlines()) <= 255 and len(loader("0123456789ab")) <= 255
    assert session.pace.window <= 128 * 1024


def test_a_way_that_loses_what_is_too_fast_is_used_more_slowly(make: Make) -> None:
    """Whatever is beyond 6 KiB in a tenth of a second is lost."""
    session, line = make()
    state = {"since": 0.0, "bytes": 0}

    def bucket(content: bytes) -> bytes:
        now = time.monotonic()
        if now - state["since"] > 0.1:
            state.update(since=now, bytes=0)
        kept = content[: max(0, 6144 - int(state["bytes"]))]
        state["bytes"] += len(content)
        return kept

    line.up = bucket
    content = os.urandom(40_000)
    assert session.run(b"sha256sum", content).stdout.split()[0].decode() == hashlib.sha256(content).hexdigest()
    assert session.pace.damaged > 0


def test_a_session_that_falls_silent_is_given_up(make: Make) -> None:
    session, line = make(silence=3)
    line.down = lambda content: b""
    began = time.monotonic()
    with pytest.raises(SessionLost):
        session.run(b"true")
    assert time.monotonic() - began < 15 and not session.clean
    with pytest.raises(SessionLost, match="interrupted"):
        session.run(b"true")


def test_a_session_that_ends_says_so_and_hangs_up_its_command(make: Make, tmp_path: Path) -> None:
    session, line = make()
    pid = tmp_path / "pid"

    def cut(content: bytes) -> bytes:
        if pid.exists():
            raise EOFError
        return content

    line.down = cut
    with pytest.raises(SessionLost):
        session.run(f"echo $$ > {pid}; echo started; sleep 300".encode())
    number = pid.read_text().strip()
    end = time.monotonic() + 10
    while Path(f"/proc/{number}").exists() and "sleep" in Path(f"/proc/{number}/cmdline").read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert time.monotonic() < end
    wait_for(lambda: not any((tmp_path / "tmp").iterdir()))


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_long_command_is_waited_for_while_it_shows_signs_of_life(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gateway, agent):
        monkeypatch.setattr(module, "AGENT", AGENT.replace("sleep 5", "sleep 1"))
    session, _line = make(silence=2.5)
    assert session.run(b"sleep 7; echo done").stdout == b"done\n"


def test_files_arrive_whole_and_keep_their_place(make: Make, tmp_path: Path) -> None:
    session, _line = make()
    content = os.urandom(100_000)
    dest = tmp_path / "a folder" / "ünder 'quotes' $HOME"
    dest.parent.mkdir()
    told: list[int] = []
    assert session.put(io.BytesIO(content), len(content), f"{dest}.part", str(dest), told.append) == 0
    assert told == sorted(told) and len(told) > 3 and told[-1] == len(content)
    assert dest.read_bytes() == content and [path.name for path in dest.parent.iterdir()] == [dest.name]
    dest.chmod(0o640)
    assert session.put(io.BytesIO(b""), 0, f"{dest}.part", str(dest)) == 0
    assert dest.read_bytes() == b"" and dest.stat().st_mode & 0o777 == 0o640
    dest.write_bytes(content)
    size, digest = session.look(str(dest))
    assert size == len(content) and digest == session.digest(content)
    assert b"".join(session.read(0, size)) == content
    assert b"".join(session.read(24576, size)) == content[24576:]


def test_a_file_that_cannot_be_written_or_read_costs_no_session(make: Make, tmp_path: Path) -> None:
    session, _line = make()
    with pytest.raises(RemoteFile, match="no readable file"):
        session.look(str(tmp_path / "nowhere"))
    with pytest.raises(RemoteFile, match="it is a folder"):
        session.put(io.BytesIO(b"abc"), 3, str(tmp_path / "part"), str(tmp_path / "home"))
    with pytest.raises(RemoteFile, match="cannot write"):
        session.put(io.BytesIO(b"abc"), 3, str(tmp_path / "part"), str(tmp_path / "no" / "folder"))
    assert session.run(b"echo fine").stdout == b"fine\n"


def test_a_transfer_that_was_cut_goes_on_where_it_ended(make: Make, tmp_path: Path) -> None:
    session, line = make()
    content, dest = os.urandom(120_000), tmp_path / "dest"
    count = {"bytes": 0}

    def cut(chunk: bytes) -> bytes:
        count["bytes"] += len(chunk)
        if count["bytes"] > 90_000:
            raise EOFError
        return chunk

    line.up = cut
    with pytest.raises(SessionLost):
        session.put(io.BytesIO(content), len(content), f"{dest}.part", str(dest))
    assert not dest.exists()
    again, second = make()
    sent = {"bytes": 0}

    def counted(chunk: bytes) -> bytes:
        sent["bytes"] += len(chunk)
        return chunk

    second.up = counted
    had = again.put(io.BytesIO(content), len(content), f"{dest}.part", str(dest))
    assert had > 30_000 and dest.read_bytes() == content
    assert sent["bytes"] < (len(content) - had) * 1.5 + 4000


def test_what_an_earlier_try_left_is_not_trusted(make: Make, tmp_path: Path) -> None:
    session, line = make()
    content, dest = os.urandom(30_000), tmp_path / "dest"
    (tmp_path / "dest.part").write_bytes(os.urandom(25_000))
    line.up = flip(9000, 3)
    assert session.put(io.BytesIO(content), len(content), f"{dest}.part", str(dest)) == 0
    assert dest.read_bytes() == content


def test_without_sha256sum_the_checksum_is_posix(make: Make, tmp_path: Path) -> None:
    for content in (b"", b"hello", os.urandom(5000)):
        assert posix_cksum(content) == int(subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout.split()[0])
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "bash", "base64", "stty", "dd", "cksum", "wc", "cat", "rm", "mv", "sleep", "tr", "grep", "mkdir"):
        (tools / name).symlink_to(shutil.which(name) or "")
    session, line = make(["sh", "-i"], PATH=str(tools))
    assert session.kind == "cksum"
    line.up = flip(30_000, 4)
    content = os.urandom(40_000)
    assert session.run(b"cat", content).stdout == content
    assert session.put(io.BytesIO(content), len(content), str(tmp_path / "p"), str(tmp_path / "dest")) == 0
    assert (tmp_path / "dest").read_bytes() == content


ASKS = b"printf '[key=abc] password:' >&2; read -r word; [ \"$word\" = 'my secret' ] || exit 1; echo GRANTED-abc; cat"


def test_a_password_is_given_when_it_is_asked_for_and_only_then(make: Make, tmp_path: Path) -> None:
    session, _line = make()
    secret = Secret("[key=abc] password:", "GRANTED-abc", "my secret")
    done = session.run(ASKS, b"input\n", secret)
    assert (done.status, done.stdout) == (0, b"GRANTED-abc\ninput\n")
    done = session.run(b"echo GRANTED-abc; cat", b"input\n", secret)
    assert (done.status, done.stdout) == (0, b"GRANTED-abc\ninput\n")
    # The chunk in which it came is overwritten by the next one.
    session.run(b"true")
    assert session.run(b"true").status == 0
    left = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file() and b"my secret" in path.read_bytes()]
    assert left == []


def test_a_session_is_taken_over(make: Make) -> None:
    session, line = make()
    assert session.run(b"cd /; true").status == 0
    facts = session.facts()
    other = Session.taken_over(*line.ends, facts, 20)
    assert other.alive() and other.run(b"echo hello").stdout == b"hello\n" and other.seq == 2


def test_a_shell_that_never_answers_is_named(tmp_path: Path) -> None:
    line = TerminalShell(["sh", "-c", "echo welcome to nowhere; exec cat"], {"PATH": os.environ["PATH"]})
    try:
        with pytest.raises(SessionLost, match="welcome to nowhere"):
            Session(*line.ends, 5).begin(4)
    finally:
        line.close()
