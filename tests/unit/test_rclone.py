# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a remote is written, which variables go to a pod with it, and what is made of what rclone says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.podcycle.gpu.plugins.action.remote_files import ActionModule
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._rclone import Rclone, exchange, is_local, read_checksums, read_remote, settings_of


@pytest.mark.parametrize("remote", ["", "bucket/x", ":s3,access_key_id=x:bucket", "s3,env_auth=true:x", "-s3:x", "--config=x:y", "s3:a\nb", "/tmp/x", ":S3:x"])
def test_a_remote_that_is_written_wrongly_is_refused(remote: str) -> None:
    with pytest.raises(errors.UsageError, match="is not written as name:path or :backend:path") as caught:
        read_remote(remote)
    assert "access_key_id" not in str(caught.value)


def test_a_pod_gets_the_variables_of_its_remote_alone() -> None:
    own = {"RCLONE_CONFIG_MY_S3_TYPE": "s3", "RCLONE_CONFIG_MY_S3_SECRET_ACCESS_KEY": "hush"}
    crypt = {"RCLONE_CONFIG_BOX_TYPE": "crypt", "RCLONE_CONFIG_BOX_REMOTE": "my-s3:bucket"}
    environment = {**own, **crypt, "RCLONE_CONFIG_OTHER_TOKEN": "x", "RCLONE_S3_SECRET_ACCESS_KEY": "y", "HOME": "/root"}
    assert settings_of("my-s3:bucket/x", environment) == own
    assert settings_of("box:x", environment) == {**own, **crypt}
    assert settings_of(":s3:bucket", environment) == {"RCLONE_S3_SECRET_ACCESS_KEY": "y"}
    longer = {"RCLONE_CONFIG_MY_S3_BACKUP_TYPE": "s3", "RCLONE_CONFIG_MY_S3_BACKUP_SECRET_ACCESS_KEY": "hush too"}
    drive = {"RCLONE_CONFIG_BUSY_TYPE": "onedrive", "RCLONE_CONFIG_BUSY_DRIVE_TYPE": "business", "RCLONE_CONFIG_BUSY_DRIVE_ID": "b!x"}
    assert settings_of("my-s3:bucket/x", {**environment, **longer}) == own and settings_of("my_s3_backup:x", {**environment, **longer}) == longer
    assert settings_of("box:x", {**environment, **longer}) == {**own, **crypt} and settings_of("busy:x", {**environment, **drive}) == drive
    assert is_local(":local:/data", {}) and is_local("here:/data", {"RCLONE_CONFIG_HERE_TYPE": "local"}) and not is_local("my-s3:x", own)


def test_a_remote_is_described_by_its_own_variables_alone() -> None:
    """Those of a remote whose name only begins alike are no description."""
    ActionModule._describe("my-s3", {"RCLONE_CONFIG_MY_S3_TYPE": "s3"})
    with pytest.raises(errors.UsageError, match="nothing in the environment describes the remote my-s3") as caught:
        ActionModule._describe("my-s3", {"RCLONE_CONFIG_MY_S3_BACKUP_TYPE": "s3"})
    assert "export RCLONE_CONFIG_MY_S3_TYPE=s3" in str(caught.value)


def test_a_push_lists_the_top_alone_and_says_what_was_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that was ever stored is not listed, and nothing is said to be read back that was not."""
    (tmp_path / "a").write_text("a", encoding="ascii")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b[1]").write_text("b", encoding="ascii")
    asked: list[list[str]] = []
    have: dict[str, bytes] = {"lsjson": b'[{"Path": "a", "Size": 1}]', "check": b"= a\n= deep/b[1]\n"}

    def run(self: Rclone, words: list[str], timeout: float, paths: list[str] | None = None) -> subprocess.CompletedProcess[bytes]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, have.get(words[0], b""), b"")

    monkeypatch.setattr(Rclone, "_run", run)
    wanted = {"direction": "push", "path": str(tmp_path), "patterns": ["*"], "exclude": [], "max_bytes": 10, "required": [], "probe": False}
    result = exchange(Rclone("s3:x", {}), wanted, check=False)
    assert not result["changed"] and [row["path"] for row in result["files"]] == ["a", "deep/b[1]"]
    assert result["verified"].endswith("nothing was sent, and nothing read back") and [words[0] for words in asked] == ["lsjson", "check"]
    assert "--recursive" not in asked[0]
    exchange(Rclone("s3:x", {}), {**wanted, "direction": "pull", "patterns": ["a"]}, check=True)
    assert "--recursive" in asked[2]


def test_what_rclone_says_shows_no_credential() -> None:
    rclone = Rclone("s3:x", {"RCLONE_CONFIG_S3_TYPE": "s3", "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": "hush-hush"})
    said = b"2026/11/22 21:00:00 NOTICE: Config file not found\n2026/11/22 21:00:01 ERROR : s3: denied for hush-hush\n"
    assert rclone._said(subprocess.CompletedProcess([], 1, b"", said)) == "ERROR : s3: denied for ***" and "hush" not in repr(rclone)


def test_checksums_as_sha256sum_writes_them() -> None:
    digest = "0123456789abcdef" * 4
    assert read_checksums(f"{digest}  a b.jsonl\n{digest} *./bin\nno checksum\n{digest[:-1]}  short\n") == {"a b.jsonl": digest, "bin": digest}
