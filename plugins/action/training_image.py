# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.podcycle.gpu.plugins.module_utils import _image as images
from ansible_collections.podcycle.gpu.plugins.module_utils import _image_build as builds
from ansible_collections.podcycle.gpu.plugins.module_utils._aside import write_json
from ansible_collections.podcycle.gpu.plugins.module_utils._controller import COLLECTION, checked, guarded
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import UsageError

SPEC = {
    "repository": {"type": "str", "required": True},
    "dir": {"type": "path", "required": True},
    "dockerfile": {"type": "str", "required": True},
    "programs": {"type": "dict", "default": {}},
    "platform": {"type": "str", "default": "linux/amd64"},
    "backend": {"type": "str", "choices": ["cpu", "cu128", "cu130"], "default": "cu130"},
    "torch": {"type": "dict", "default": {}},
    "push": {"type": "bool", "default": False},
    "smoke": {"type": "bool", "default": True},
    "smoke_seconds": {"type": "int", "default": 600},
    "build_seconds": {"type": "int", "default": 5400},
    "ca_bundle": {"type": "path", "default": ""},
    "revision": {"type": "str", "default": ""},
}
display = Display()


class ActionModule(ActionBase):
    """Builds, tries and pushes the training image; an action plugin, since it must see the collection's own files and tells what it does meanwhile."""

    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(guarded(lambda: Image(checked(SPEC, self._task.args), check=bool(self._task.check_mode)).converge()))
        return result


class Image:
    """One image from the look at it to the read-back of its push."""

    def __init__(self, args: dict[str, Any], *, check: bool) -> None:
        self.args, self.check = args, check
        self.docker = builds.Docker()
        self.repository, note = images.repository_of(args["repository"])
        self.lines = [note] if note else []
        for name in ("smoke_seconds", "build_seconds"):
            if args[name] < 1:
                raise UsageError(f"{images.WHAT}: {name} is {args[name]}; it has to be 1 or more")
        self.ca_bundle = args["ca_bundle"]
        if self.ca_bundle and not Path(self.ca_bundle).is_file():
            raise UsageError(f"{images.WHAT}: there is no file {self.ca_bundle}; name the certificates that the network wants with -e image_ca_bundle=FILE")
        self.context = images.context_of(COLLECTION, args)
        self.revision = images.revision_of(COLLECTION, args["revision"])
        if args["push"] and self.revision.dirty:
            raise UsageError(
                f"{images.WHAT}: PUSH_IMAGE is set and the checkout has changes that are not committed, so that nobody could make this image again; "
                "commit or stash them, or leave PUSH_IMAGE out"
            )
        self.home = Path(args["dir"]).absolute()
        self.folder, self.log, self.record_file = self.home / "context", self.home / "build.log", self.home / "record.json"
        images.refuse_foreign(self.folder)
        self.labels = images.labels_of(COLLECTION, self.revision, self.context.base)
        self.digest = self.context.digest({**self.labels, "platform": args["platform"]})
        self.names = [f"{self.repository}:{tag}" for tag in self.revision.tags]

    def converge(self) -> dict[str, Any]:
        self.docker.probe()
        found = self.docker.image(self.names[0])
        built = builds.is_built(found, self.digest)
        record = self.record()
        missing = [] if not built or found is None else [name for name in self.names[1:] if (self.docker.image(name) or {}).get("id") != found["id"]]
        tried = built and found is not None and record.get("tried") == found["id"]
        pushed = self.args["push"] and built and found is not None and self.is_pushed(record, found["id"])
        do_push = self.args["push"] and not pushed
        result: dict[str, Any] = {"changed": not built or bool(missing) or do_push, "seconds": {}}
        if self.check:
            self.tell(built, do_push)
            return {**result, "image": self.described(found if built else None, record if built else {}), "lines": self.lines}
        words = builds.build_words(self.args["platform"], {**self.labels, images.LABEL: self.digest}, self.names, self.ca_bundle, self.folder)
        if not built or do_push:
            self.context.write(self.folder)
        if not built:
            limit = self.args["build_seconds"]
            display.display(f"image: building {self.names[0]} from {self.context.base}, for {limit} s at the most; all of it is in {self.log}")
            result["seconds"]["build"] = self.docker.build(["--load", *words], self.log, self.args["build_seconds"], self.say)
            found = self.docker.image(self.names[0])
            record = {"digest": self.digest}
            write_json(self.record_file, record)
        for name in missing:
            self.docker.run("image", "tag", self.names[0], name)
        if found is None:
            raise images.ImageError(f"{images.WHAT}: the build ended well, and the engine knows no image {self.names[0]}; see {self.log}")
        if self.args["smoke"] and not tried:
            display.display(f"image: trying it without a network, as the runner, for {self.args['smoke_seconds']} s at the most")
            smoke = builds.smoke(self.docker, self.names[0], self.args["smoke_seconds"])
            record = {**record, "digest": self.digest, "tried": found["id"], "smoke": smoke}
            write_json(self.record_file, record)
        if do_push:
            display.display(f"image: pushing {' and '.join(self.names)}")
            digests = builds.push(self.docker, words, self.repository, self.revision.tags, self.home / "push.log", self.args["build_seconds"], self.say)
            builds.refuse_another(self.docker, self.repository, digests, found, self.args["platform"])
            record = {**record, "digest": self.digest, "pushed": {"repository": self.repository, "tags": digests, "image": found["id"]}}
            write_json(self.record_file, record)
        self.tell(built, do_push)
        return {**result, "image": self.described(found, record), "lines": self.lines}

    def say(self, line: str) -> None:
        display.display(f"image: {line}")

    def record(self) -> dict[str, Any]:
        """What is known of this very content from earlier."""
        try:
            found = json.loads(self.record_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("digest") == self.digest else {}

    def is_pushed(self, record: dict[str, Any], image: str) -> bool:
        """Whether the registry still has what was pushed, and that was this image."""
        pushed = record.get("pushed") or {}
        tags = pushed.get("tags") or {}
        same = (pushed.get("repository"), pushed.get("image")) == (self.repository, image) and set(tags) == set(self.revision.tags)
        return same and all(builds.there(self.docker, f"{self.repository}:{tag}") == digest for tag, digest in tags.items())

    def tell(self, built: bool, do_push: bool) -> None:
        would = "would be " if self.check else ""
        self.lines.append(f"{self.names[0]} {'is built already' if built else f'{would}built from {self.context.base}'} ({self.args['backend']})")
        if self.revision.dirty:
            self.lines.append("the checkout has changes that are not committed: no tag latest")
        if self.args["push"]:
            self.lines.append(f"{', '.join(self.names)} {f'{would}pushed' if do_push else 'stand in the registry already'}")

    def described(self, found: dict[str, Any] | None, record: dict[str, Any]) -> dict[str, Any]:
        return {
            "repository": self.repository,
            "tags": self.revision.tags,
            "revision": self.revision.full,
            "digest": self.digest,
            "id": found["id"] if found else None,
            "size_mib": round(found["size"] / 1048576) if found else None,
            "context": str(self.folder),
            "smoke": record.get("smoke"),
            "pushed": (record.get("pushed") or {}).get("tags") or {},
        }
