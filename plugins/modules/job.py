#!/usr/bin/python
# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: job
short_description: Run a long command on a pod, detached from SSH
version_added: 0.1.0
author:
  - podcycle.gpu contributors (@podcycle)
description:
  - Starts a command on a pod, detached from the SSH session, and re-attaches to it when it already runs.
  - A small supervisor on the pod keeps a status file with state, exit code, heartbeat and progress, and the whole log.
    The job survives the loss of SSH and the death of the controller; running the task again picks it up.
  - With O(state=finished) the job is followed to its end, and its progress is printed while it runs.
    A pod that cannot be reached for a while is waited for; only when O(unreachable_seconds) are over is the host reported as unreachable,
    and the job goes on.
  - A pod of ours (with the variable C(podcycle_id)) that cannot be reached is looked for in its cloud as well. As soon as that shows it stopped or gone
    twice in a row, the task fails and says why. The cloud's key comes from the pod's variables and never goes to the pod.
  - A program may report progress by replacing the file that E(PODCYCLE_PROGRESS_FILE) names with a JSON object.
    Its C(summary), one line of text, is what is printed.
  - A program that ends with exit code 75 after it was asked to stop has saved its work. The job is then V(cancelled) when a cancel was asked
    for, and V(preempted) when something else stopped it.
options:
  name:
    description:
      - Names the job and its folder below O(jobs_dir).
    type: str
    required: true
  jobs_dir:
    description:
      - Folder on the pod that holds the jobs' folders.
    type: path
    required: true
  command:
    description:
      - The program and its arguments. No shell looks at them.
      - Required unless O(state=cancelled).
    type: list
    elements: str
    default: []
  chdir:
    description:
      - Folder in which the command runs. The job's own folder when not given.
    type: path
  environment:
    description:
      - Environment variables for the command, on top of those of the SSH session. They are kept in the job's folder in plain text.
    type: dict
    default: {}
  state:
    description:
      - V(started) starts the job, or re-attaches to it, and returns at once.
      - V(finished) starts or re-attaches, and follows the job to its end.
      - V(cancelled) asks the command to stop with SIGTERM and kills it after O(cancel_grace_seconds).
    type: str
    choices: [started, finished, cancelled]
    default: started
  follow:
    description:
      - Follow the job to its end. The default follows when O(state) is V(finished) or V(cancelled).
    type: bool
  poll_seconds:
    description:
      - Seconds between two looks at the job.
    type: float
    default: 2
  progress_every_seconds:
    description:
      - Print a progress line at least this often while the job is followed.
    type: float
    default: 5
  timeout_seconds:
    description:
      - Fail when the job has run for longer than this. V(0) means no limit. The job goes on.
    type: float
    default: 0
  stall_seconds:
    description:
      - Fail when the job has shown no sign of life for longer than this, no heartbeat, or no progress and no log line from a program that
        once reported progress. V(0) means no limit. The job goes on.
    type: float
    default: 120
  unreachable_seconds:
    description:
      - How long a pod that cannot be reached is waited for while its job is followed.
    type: float
    default: 300
  cancel_grace_seconds:
    description:
      - Seconds between SIGTERM and SIGKILL when the job is cancelled.
    type: float
    default: 60
  log_tail_lines:
    description:
      - How many of the log's last lines are returned.
    type: int
    default: 40
attributes:
  check_mode:
    description: Can run in check mode and return what it would do without changing anything.
    support: full
  diff_mode:
    description: Returns details on what has changed when in diff mode.
    support: none
  action:
    description: Follows the job from the controller.
    support: full
  async:
    description: Supports the C(async) keyword.
    support: none
    details: A job is detached by itself.
seealso:
  - module: ansible.builtin.command
"""

EXAMPLES = r"""
- name: Train, with progress on the terminal, to the end
  podcycle.gpu.job:
    name: train
    jobs_dir: /workspace/jobs/demo
    command: [/workspace/venv/bin/python, -m, chess_trainer, train, --data, /workspace/data/smoke, --run-dir, /workspace/runs/demo]
    state: finished

- name: Start on all pods at once
  podcycle.gpu.job:
    name: train
    jobs_dir: /workspace/jobs/demo
    command: [python3, train.py]
    chdir: /workspace/src
    environment:
      OMP_NUM_THREADS: "8"

- name: Stop the training, leaving it two minutes for its checkpoint
  podcycle.gpu.job:
    name: train
    jobs_dir: /workspace/jobs/demo
    state: cancelled
    cancel_grace_seconds: 120
"""

RETURN = r"""
job:
  description: The job as it was last seen.
  returned: always, unless the pod could not be reached at first
  type: dict
  contains:
    name:
      description: The job's name.
      type: str
      returned: always
      sample: train
    state:
      description:
        - V(starting), V(running), V(succeeded), V(failed), V(cancelled), V(preempted), V(lost) when its supervisor is gone without having
          recorded an end, or V(absent) when it was never started.
      type: str
      returned: always
      sample: succeeded
    attempt:
      description: How often the job was started. Logs of earlier attempts are kept beside the log.
      type: int
      returned: always
      sample: 1
    pid:
      description: Process id of the command on the pod.
      type: int
      returned: always
      sample: 4711
    runner_pid:
      description: Process id of its supervisor on the pod.
      type: int
      returned: always
      sample: 4709
    runner_started:
      description: Start time of the supervisor in clock ticks since the machine's boot, which tells it from a later process with the same id.
      type: int
      returned: always
      sample: 8812345
    exit_code:
      description: Exit code of the command, 128 and the signal's number when a signal ended it. Null while it runs.
      type: int
      returned: always
      sample: 0
    signal:
      description: Name of the signal that ended the command, if one did.
      type: str
      returned: always
      sample: SIGKILL
    message:
      description: Why the command could not be started, if it could not.
      type: str
      returned: always
      sample: "the command could not be started: No such file or directory"
    cancel_requested:
      description: Whether a cancel was asked for.
      type: bool
      returned: always
      sample: false
    started_at:
      description: When the job was started, by the pod's clock.
      type: str
      returned: always
      sample: "2026-11-22T08:15:30.123Z"
    ended_at:
      description: When it ended. Null while it runs.
      type: str
      returned: always
      sample: "2026-11-22T08:16:17.456Z"
    heartbeat_at:
      description: When the supervisor last wrote.
      type: str
      returned: always
      sample: "2026-11-22T08:16:17.456Z"
    active_at:
      description: When progress or log last grew.
      type: str
      returned: always
      sample: "2026-11-22T08:16:17.001Z"
    progress:
      description: What the program last wrote to its progress file.
      type: dict
      returned: always
      sample: {"ts": "2026-11-22T08:16:17Z", "summary": "epoch 1  42 %  4,321 positions/s  loss 3.21  eta 24 s", "fraction": 0.42}
    dir:
      description: The job's folder on the pod.
      type: str
      returned: always
      sample: /workspace/jobs/demo/train
    log:
      description: The command's whole output on the pod.
      type: str
      returned: always
      sample: /workspace/jobs/demo/train/job.log
    command:
      description: The command as a shell would read it.
      type: str
      returned: always
      sample: python3 train.py
    log_tail:
      description: The last lines of the log.
      type: list
      elements: str
      returned: always
      sample: ["saved checkpoint last.pt"]
failure:
  description: What went wrong, for programs.
  returned: failure
  type: dict
  contains:
    code:
      description:
        - V(job_failed), V(job_lost), V(job_cancelled), V(job_preempted), V(job_stalled), V(job_timeout), V(job_differs), V(job_bad_spec) or
          V(job_not_started).
        - V(pod_outbid), a spot pod that was stopped and whose volume keeps its files, V(pod_stopped) or V(pod_gone).
      type: str
      returned: always
      sample: job_failed
    message:
      description: The sentence in RV(ignore:msg).
      type: str
      returned: always
      sample: "job train on pod-1: failed with exit code 70 after 12 s"
    details:
      description: What is known besides.
      type: dict
      returned: always
      sample: {"exit_code": 70}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podcycle.gpu.plugins.module_utils._errors import failure
from ansible_collections.podcycle.gpu.plugins.module_utils._job import Job, JobError, JobSpec, public


def run(module: AnsibleModule) -> None:
    params = module.params
    spec = JobSpec(params["name"], params["command"], params["chdir"], {key: str(value) for key, value in params["environment"].items()})
    job = Job(spec, Path(params["jobs_dir"]))
    try:
        if params["state"] == "cancelled":
            changed, status = job.cancel(params["cancel_grace_seconds"], check_mode=module.check_mode)
        else:
            changed, status = job.start(check_mode=module.check_mode)
    except JobError as error:
        module.fail_json(**failure(error), job={**public(job.record(), job), "log_tail": job.log_tail(params["log_tail_lines"])})
    module.exit_json(changed=changed, job={**public(status, job), "log_tail": job.log_tail(params["log_tail_lines"])})


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "jobs_dir": {"type": "path", "required": True},
            "command": {"type": "list", "elements": "str", "default": []},
            "chdir": {"type": "path"},
            "environment": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["started", "finished", "cancelled"], "default": "started"},
            "follow": {"type": "bool"},
            "poll_seconds": {"type": "float", "default": 2},
            "progress_every_seconds": {"type": "float", "default": 5},
            "timeout_seconds": {"type": "float", "default": 0},
            "stall_seconds": {"type": "float", "default": 120},
            "unreachable_seconds": {"type": "float", "default": 300},
            "cancel_grace_seconds": {"type": "float", "default": 60},
            "log_tail_lines": {"type": "int", "default": 40},
        },
        supports_check_mode=True,
    )
    run(module)


if __name__ == "__main__":
    main()
