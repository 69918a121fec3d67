# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a remote is written, which variables go to a pod with it, and what is made of what rclone says."""

from __future__ import annotations

import subprocess

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._rclone import Rclone, is_local, read_checksums, read_remote, settings_of


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
    assert is_local(":local:/data", {}) and is_local("here:/data", {"RCLONE_CONFIG_HERE_TYPE": "local"}) and not is_local("my-s3:x", own)


def test_what_rclone_says_shows_no_credential() -> None:
    rclone = Rclone("s3:x", {"RCLONE_CONFIG_S3_TYPE": "s3", "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": "hush-hush"})
    said = b"2026/11/22 21:00:00 NOTICE: Config file not found\n2026/11/22 21:00:01 ERROR : s3: denied for hush-hush\n"
    assert rclone._said(subprocess.CompletedProcess([], 1, b"", said)) == "ERROR : s3: denied for ***" and "hush" not in repr(rclone)


def test_checksums_as_sha256sum_writes_them() -> None:
    digest = "0123456789abcdef" * 4
    assert read_checksums(f"{digest}  a b.jsonl\n{digest} *./bin\nno checksum\n{digest[:-1]}  short\n") == {"a b.jsonl": digest, "bin": digest}
