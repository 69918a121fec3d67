# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: runpod_gateway
short_description: Reach a RunPod pod through RunPod's SSH gateway
version_added: 0.1.0
description:
  - Runs commands and copies files through the interactive terminal of C(POD-SUFFIX@ssh.runpod.io), which has no exec, scp, sftp, rsync or port
    forwarding. The pod needs no public address, no exposed port, no SSH server and no Python for this; modules need Python, as ever.
  - The key is one of the account's, not the pod's.
  - Everything goes as checksummed chunks in short lines and is sent again when it was damaged; files go on where an earlier try ended.
  - A session is kept for the next task, in a small process of its own.
  - A command that the session takes down with it is hung up; what must live longer is a job (M(podcycle.gpu.job)).
author: podcycle.gpu contributors (@podcycle)
options:
  host:
    description: Name or address of the gateway.
    type: str
    default: ssh.runpod.io
    vars:
      - name: ansible_runpod_gateway_host
    env:
      - name: RUNPOD_SSH_HOST
  port:
    description: Port of the gateway.
    type: int
    default: 22
    vars:
      - name: ansible_runpod_gateway_port
    env:
      - name: RUNPOD_SSH_PORT
  user:
    description: The pod's user at the gateway, C(ssh.proxy.username) in RunPod's API.
    type: str
    required: true
    vars:
      - name: ansible_runpod_gateway_user
    env:
      - name: RUNPOD_SSH_USER
  private_key_file:
    description: Private half of a key of the account; without it, ssh tries the files of C(~/.ssh).
    type: path
    vars:
      - name: ansible_runpod_gateway_private_key_file
      - name: ansible_ssh_private_key_file
      - name: ansible_private_key_file
    env:
      - name: RUNPOD_SSH_KEY_FILE
  known_hosts_file:
    description: File that pins the gateway's host key, which is accepted on first contact only.
    type: path
    default: ~/.ssh/known_hosts.runpod_gateway
    vars:
      - name: ansible_runpod_gateway_known_hosts_file
  connect_timeout:
    description: Seconds until the gateway has answered.
    type: int
    default: 30
    vars:
      - name: ansible_runpod_gateway_connect_timeout
  start_timeout:
    description: Seconds until a shell in the pod has answered.
    type: int
    default: 60
    vars:
      - name: ansible_runpod_gateway_start_timeout
  silence_timeout:
    description:
      - Seconds without any sign of life after which the pod counts as unreachable.
      - A running command shows one every 5 seconds, so this does not bound how long it may take.
    type: int
    default: 60
    vars:
      - name: ansible_runpod_gateway_silence_timeout
  persist:
    description: Seconds for which a session is kept for the next task; 0 keeps none.
    type: int
    default: 60
    vars:
      - name: ansible_runpod_gateway_persist
  control_path_dir:
    description: Folder of the sockets through which sessions are kept; an own one, below C(/tmp), where not given.
    type: path
    vars:
      - name: ansible_control_path_dir
"""

import os
from collections.abc import Callable
from pathlib import Path

from ansible.errors import AnsibleAuthenticationFailure, AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display
from ansible.utils.path import makedirs_safe, unfrackpath

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import PodcycleError
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_link import Address, Limits, Link, Refused
from ansible_collections.podcycle.gpu.plugins.module_utils._gateway_parts import RemoteFile, Secret
from ansible_collections.podcycle.gpu.plugins.module_utils._ssh import masters_base

display = Display()


class Connection(ConnectionBase):
    """Maps Ansible's connection to a link through the gateway."""

    transport = "podcycle.gpu.runpod_gateway"
    has_pipelining = True
    has_tty = False

    _link: Link | None = None

    def _connect(self) -> Connection:
        if self._link is None:
            known_hosts = unfrackpath(self.get_option("known_hosts_file"), follow=False)
            makedirs_safe(os.path.dirname(known_hosts), 0o700)
            address = Address(
                self.get_option("host"), self.get_option("port"), self.get_option("user"), self.get_option("private_key_file"), known_hosts
            )  # fmt: skip
            limits = Limits(
                self.get_option("connect_timeout"), self.get_option("start_timeout"), self.get_option("silence_timeout"),
                self.get_option("persist"), self.get_option("control_path_dir") or str(masters_base()),
            )  # fmt: skip
            self._link = Link(address, limits)
            self._connected = True
        return self

    @property
    def _open_link(self) -> Link:
        self._connect()
        if self._link is None:
            raise AnsibleError("the connection is not open")
        return self._link

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        display.vvv(f"EXEC THROUGH GATEWAY {to_text(cmd)}", host=self._host)
        secret = self._secret() if sudoable else None
        try:
            done = self._open_link.run(to_bytes(cmd, errors="surrogate_or_strict") + b"\n", in_data or b"", secret)
        except PodcycleError as err:
            raise self._failure(err) from err
        if secret is not None and self.become is not None and done.status and self.become.check_incorrect_password(done.stderr):
            raise AnsibleError("Incorrect become password")
        return done.status, done.stdout, done.stderr

    def _secret(self) -> Secret | None:
        """How the prompt for a become password is answered."""
        become = self.become
        if become is None or not become.expect_prompt():
            return None
        if not isinstance(become.prompt, str) or not become.prompt:
            raise AnsibleError(f"become with {become.name} and a password does not work through the gateway; use sudo, or no password")
        return Secret(become.prompt, become.success, to_text(become.get_option("become_pass") or ""))

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        self.put_watched(in_path, out_path)

    def put_watched(self, in_path: str, out_path: str, moved: Callable[[int], None] = lambda have: None) -> None:
        """The same, and `moved` is told how many bytes are there."""
        display.vvv(f"PUT THROUGH GATEWAY {in_path} TO {out_path}", host=self._host)
        try:
            with open(to_bytes(in_path, errors="surrogate_or_strict"), "rb") as source:
                self._open_link.put(source, os.fstat(source.fileno()).st_size, out_path, moved)
        except FileNotFoundError as err:
            raise AnsibleFileNotFound(f"file or module does not exist: {in_path}") from err
        except PodcycleError as err:
            raise self._failure(err) from err

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        self.fetch_bounded(in_path, out_path)

    def fetch_bounded(self, in_path: str, out_path: str, most_bytes: int | None = None, moved: Callable[[int], None] = lambda have: None) -> None:
        """The same, for a file that may not be larger than its pod declared; `moved` is told how many bytes are here."""
        display.vvv(f"FETCH THROUGH GATEWAY {in_path} TO {out_path}", host=self._host)
        try:
            self._open_link.fetch(in_path, Path(out_path), most_bytes, moved)
        except PodcycleError as err:
            raise self._failure(err) from err

    @property
    def _host(self) -> str:
        return str(self._play_context.remote_addr)

    @staticmethod
    def _failure(err: PodcycleError) -> AnsibleError:
        if isinstance(err, RemoteFile):
            return AnsibleError(err.message)
        return AnsibleAuthenticationFailure(str(err)) if isinstance(err, Refused) else AnsibleConnectionFailure(str(err))

    def reset(self) -> None:
        self._connect()
        self._open_link.reset()
        self.close()

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.rest()
        self._connected = False
