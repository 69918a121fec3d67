#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: training_image
short_description: Build, try and push an image that trains
version_added: 0.1.0
description:
  - Writes a build context from a Dockerfile and this collection, builds it with C(docker buildx), trains a tiny epoch in it without a network,
    and pushes it when that is asked for. The role C(podcycle.gpu.training_image) brings the Dockerfile.
  - Its tags are the short name of the commit and V(latest). A checkout with changes that are not committed gets C(COMMIT-dirty) alone and cannot be pushed.
  - An image of the same content is not built again; a label holds the checksum of everything that goes into it.
extends_documentation_fragment:
  - podcycle.gpu.attributes
  - podcycle.gpu.attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  action:
    support: full
author: podcycle.gpu contributors (@podcycle)
options:
  repository:
    description: Where the image is to lie, without a tag. Upper case is written in lower case.
    type: str
    required: true
  dir:
    description: Folder for the build context, the logs and the record of what was tried and pushed.
    type: path
    required: true
  dockerfile:
    description: The Dockerfile.
    type: str
    required: true
  programs:
    description: Programs and playbooks that the Dockerfile copies from C(image), by their names.
    type: dict
    default: {}
  platform:
    description: V(linux/amd64) or V(linux/arm64).
    type: str
    default: linux/amd64
  backend:
    description: Build of PyTorch.
    type: str
    choices: [cpu, cu128, cu130]
    default: cu130
  torch:
    description: What differs from the defaults of the role C(podcycle.gpu.pytorch), C(version), C(extra_packages), C(find_links), C(index_url) and C(lock).
    type: dict
    default: {}
  push:
    description: Push all tags, and read them back.
    type: bool
    default: false
  smoke:
    description: Try the image unless this very one was tried before.
    type: bool
    default: true
  smoke_seconds:
    description: The longest that trying it may take.
    type: int
    default: 600
  build_seconds:
    description: The longest that building it may take, and pushing it again.
    type: int
    default: 5400
  ca_bundle:
    description: Certificates for the time of the build; they come into no layer.
    type: path
    default: ""
  revision:
    description: The tag where the collection is no git checkout.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Say what would be built
  podcycle.gpu.training_image:
    repository: ghcr.io/you/chess-training
    dir: /workspace/image
    dockerfile: "FROM ubuntu:24.04\n"
    backend: cpu
    revision: first
  check_mode: true
"""

RETURN = r"""
image:
  description: The image.
  returned: success
  type: dict
  contains:
    repository:
      description: Where it is to lie.
      type: str
      returned: always
      sample: ghcr.io/you/chess-training
    tags:
      description: Its tags.
      type: list
      elements: str
      returned: always
      sample: [0a1b2c3d4e5f, latest]
    revision:
      description: The commit that it is of.
      type: str
      returned: always
      sample: 0a1b2c3d4e5f60718293a4b5c6d7e8f901234567
    digest:
      description: Checksum of everything that goes into it.
      type: str
      returned: always
      sample: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    id:
      description: Its id in the engine. Null when it is not built.
      type: str
      returned: always
      sample: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    size_mib:
      description: Its size. Null when it is not built.
      type: int
      returned: always
      sample: 1730
    context:
      description: The folder that it was built from.
      type: str
      returned: always
      sample: /srv/artifacts/image/context
    smoke:
      description: What trying it has shown, exit codes, seconds, files and the move that the model answered. Null when it was not tried.
      type: dict
      returned: always
      sample: {"uid": 1001, "train_exit_code": 0, "infer_exit_code": 0, "move": "b8c6"}
    pushed:
      description: Digest of each tag that the registry has.
      type: dict
      returned: always
      sample: {"latest": "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}
seconds:
  description: How long building it took, when it was built.
  type: dict
  returned: success
  sample: {"build": 141.2}
lines:
  description: What was found and done, in sentences.
  type: list
  elements: str
  returned: success
  sample: ["ghcr.io/you/chess-training:0a1b2c3d4e5f is built already (cu130)"]
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description: V(bad_input) or V(training_image).
      type: str
      returned: always
      sample: training_image
    message:
      description: The sentence without its advice.
      type: str
      returned: always
      sample: "build the training image: no Docker engine answers (is the docker daemon running?)"
    effect:
      description: Always V(none).
      type: str
      returned: always
      sample: none
    details:
      description: What is known besides.
      type: dict
      returned: always
      sample: {}
"""
