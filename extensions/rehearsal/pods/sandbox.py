# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Namespaces around a pod: its own process tree and a file system that is read-only outside the pod folder."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 0x1
# The number is the same on every architecture: mount_setattr came after the tables were joined (Linux 5.12).
SYS_MOUNT_SETATTR = 442
PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
CAP_SYS_ADMIN = 21
# A process with write access to one of these can start processes outside its namespaces; a read-only mount does not stop connect().
HOST_SOCKETS = ("/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/dbus/system_bus_socket", "/run/systemd/private")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Fence:
    """What a pod sees of the machine."""

    pod_dir: Path
    state_dir: Path
    passwd: str
    keep: Sequence[Path] = field(default_factory=tuple)
    # A network volume: its folder, and where it is mounted below the pod's.
    volume: tuple[Path, Path] | None = None


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)), f"prctl {option}")


def become_subreaper() -> None:
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), data.encode() if data else None)
    _check(result, f"mount {target}")


def _set_read_only(target: str, read_only: bool, recursive: bool) -> None:
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY if read_only else 0, 0 if read_only else MOUNT_ATTR_RDONLY, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    result = _libc.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_int(AT_FDCWD), target.encode(), ctypes.c_uint(flags), attributes, ctypes.c_size_t(len(attributes))
    )
    _check(result, f"mount_setattr {target}")


def enter(fence: Fence) -> None:
    """Move the calling single-threaded process into namespaces of its own. Its next child is pid 1 of the pod."""
    _unshare_with_maps()
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    writable = _hide_and_bind(fence)
    _set_read_only("/", True, True)
    for path in writable:
        _set_read_only(path, False, False)
    os.chdir(fence.pod_dir)


def _unshare_with_maps() -> None:
    """A process in a fresh user namespace may map only itself; root maps every id, through a helper that stayed outside, so that chown works."""
    uid, gid, pid = os.getuid(), os.getgid(), os.getpid()
    go_read, go_write = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go_write)
        go = os.read(go_read, 1)
        os._exit(_write_maps(pid, uid, gid) if go == b"1" else 1)
    os.close(go_read)
    try:
        _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID), "unshare")
        os.write(go_write, b"1")
    finally:
        os.close(go_write)
        status = os.waitpid(helper, 0)[1]
    if status != 0:
        raise PermissionError(f"the user namespace could not be mapped (status {status})")


def _write_maps(pid: int, uid: int, gid: int) -> int:
    base = Path("/proc") / str(pid)
    try:
        if uid == 0:
            try:
                (base / "uid_map").write_text("0 0 4294967295\n", encoding="ascii")
                (base / "gid_map").write_text("0 0 4294967295\n", encoding="ascii")
            except OSError:
                return 1
            return 0
        (base / "setgroups").write_text("deny\n", encoding="ascii")
        (base / "uid_map").write_text(f"0 {uid} 1\n", encoding="ascii")
        (base / "gid_map").write_text(f"0 {gid} 1\n", encoding="ascii")
    except OSError:
        return 1
    return 0


def _below(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _hide_and_bind(fence: Fence) -> list[str]:
    """/tmp becomes the pod's own, other pods and the cloud's state vanish, the pod folder stays where it is."""
    tmp = Path("/tmp")
    pod = fence.pod_dir
    kept = [path for path in fence.keep if _below(path, tmp) and not _below(path, fence.state_dir) and path.exists()]
    sources = {path: os.open(path, os.O_PATH) for path in (pod, pod / "tmp", *kept)}
    if fence.volume is not None:
        sources[fence.volume[1]] = os.open(fence.volume[0], os.O_PATH)
    writable = [str(pod), "/tmp", "/dev/shm"]
    _mount(f"/proc/self/fd/{sources[pod / 'tmp']}", "/tmp", None, MS_BIND)
    if not _below(fence.state_dir, tmp):
        _mount("tmpfs", str(fence.state_dir), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
    for path in (pod, *kept):
        _bind_fd(sources[path], path)
    if fence.volume is not None:
        _bind_fd(sources[fence.volume[1]], fence.volume[1])
        writable.append(str(fence.volume[1]))
    for number in sources.values():
        os.close(number)
    _mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    passwd = pod / "tmp" / ".passwd"
    passwd.write_text(fence.passwd, encoding="utf-8")
    passwd.chmod(0o644)
    _mount(str(passwd), "/etc/passwd", None, MS_BIND)
    passwd.unlink()
    for name in HOST_SOCKETS:
        if os.path.exists(name):
            _mount("/dev/null", name, None, MS_BIND)
    return writable


def _bind_fd(number: int, target: Path) -> None:
    if stat.S_ISDIR(os.fstat(number).st_mode):
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(f"/proc/self/fd/{number}", str(target), None, MS_BIND | MS_REC)


def start_init(environment: dict[str, str]) -> int:
    """Fork pid 1 of the pod: it mounts /proc, carries the pod's environment and sleeps. With SIGCHLD ignored the kernel reaps orphans for it."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
            drop_mount_right()
            die_with_parent()
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            for number in (0, 1, 2):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(write_end, False)
            os.closerange(3, write_end)
            os.execve("/bin/sleep", ["sleep", "infinity"], environment)
        except OSError as error:
            os.write(write_end, str(error).encode())
        os._exit(1)
    os.close(write_end)
    problem = os.read(read_end, 4096)
    os.close(read_end)
    if problem:
        os.waitpid(pid, 0)
        raise PermissionError(f"pid 1 of the pod did not start: {problem.decode(errors='replace')}")
    return pid


def die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def drop_mount_right() -> None:
    """Programs started from here on cannot mount, so they cannot undo the read-only file system; containers lack this right too."""
    _prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN)


def probe(folder: Path) -> str | None:
    """Try it in a child that is thrown away: None when namespaces work here, otherwise the reason."""
    read_end, write_end = os.pipe()
    trial = folder / "probe"
    (trial / "tmp").mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            enter(Fence(trial, folder, "root:x:0:0:root:/:/bin/sh\n"))
            os.kill(start_init({}), signal.SIGKILL)
        except OSError as error:
            os.write(write_end, str(error).encode())
            os._exit(1)
        os._exit(0)
    os.close(write_end)
    reason = os.read(read_end, 4096).decode(errors="replace")
    os.close(read_end)
    status = os.waitpid(child, 0)[1]
    return None if status == 0 else reason or f"the trial ended with status {status}"
