# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A value that its role does not take, and a secret for a start script, are refused with one sentence before anything is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.podcycle.gpu.plugins.module_utils import _bootstrap as bootstrap
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _pod_setup as pod_setup
from ansible_collections.podcycle.gpu.plugins.module_utils import _role_values as role_values
from support.world import ROOT

ROLES = sorted(path.parents[1] for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"))
SECRET = "s3cr3t-value"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "pair": ({"pytorch_backend": "cu999"}, 'pytorch_backend is "cu999" and has to be one of auto, cpu, cu128, cu130'),
    "choice": ({"cutlass_source": "zip"}, 'cutlass_source is "zip" and has to be one of git, wheel'),
    "number": ({"node_omp_threads": "zero"}, 'node_omp_threads is "zero" and has to be a whole number'),
    "half": ({"node_omp_threads": 1.5}, "node_omp_threads is 1.5 and has to be a whole number"),
    "bounds": ({"cuda_watchdog_interval_seconds": "0"}, 'cuda_watchdog_interval_seconds is "0" and has to be a whole number from 1 to 86400'),
    "bounded": ({"cuda_watchdog_backoff_seconds": "abc"}, 'cuda_watchdog_backoff_seconds is "abc" and has to be a whole number from 0 to 86400'),
    "infinite": ({"cuda_watchdog_heal_attempts": "inf"}, 'cuda_watchdog_heal_attempts is "inf" and has to be a whole number from 1 to 100'),
    "boolean": ({"cuda13_reuse": "perhaps"}, 'cuda13_reuse is "perhaps" and has to be true or false'),
    "list": ({"node_packages": {"a": SECRET}}, "node_packages is a dictionary and has to be a list"),
    "word": ({"chess_training_packages": "numpy"}, 'chess_training_packages is "numpy" and has to be a list, such as'),
    "typed": ({"node_packages": "jq"}, """node_packages is "jq" and has to be a list, such as -e '{"node_packages": ["..."]}'"""),
    "commas": ({"node_extra_packages": "jq,tmux"}, 'node_extra_packages is "jq,tmux" and has to be a list'),
    "nothing": ({"node_extra_packages": ""}, 'node_extra_packages is "" and has to be a list'),
    "one": ({"node_git_safe_directories": 1}, "node_git_safe_directories is 1 and has to be a list"),
    "dictionary": ({"node_environment": SECRET}, "node_environment is text and has to be a dictionary"),
    "json": ({"node_environment": '{"A":"b"}'}, """node_environment is text and has to be a dictionary, such as -e '{"node_environment": {"NAME": "..."}}'"""),
    "pairs": ({"node_environment": "A=b"}, "node_environment is text and has to be a dictionary"),
    "price": ({"usd_per_hour": "abc"}, 'usd_per_hour is "abc" and has to be a price in dollars, such as 2.69'),
    "stack": ({"stack": "gpu"}, 'stack is "gpu" and has to be one of full, cpu'),
    "roles": ({"stack_roles": "node"}, 'stack_roles is "node" and has to be a list out of node, cuda13, '),
    "two": ({"stack": "gpu", "cutlass_source": "zip"}, 'full, cpu; cutlass_source is "zip" and'),
}


def test_what_is_read_of_the_roles_is_what_yaml_reads() -> None:
    found = role_values.specs_of(ROOT)
    wanted = {}
    for role in ROLES:
        options = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
        wanted.update({name: (option["type"], [str(one) for one in option.get("choices", [])]) for name, option in options.items()})
    assert {name: (spec["type"], spec["choices"]) for name, spec in found.items() if name not in role_values.SHARED} == wanted
    bounds = yaml.safe_load((ROOT / "roles/cuda_watchdog/vars/main.yml").read_text(encoding="utf-8"))["__cuda_watchdog_bounds"]
    told = {name.removeprefix("cuda_watchdog_"): spec["bounds"] for name, spec in found.items() if spec.get("bounds")}
    assert told == {name: tuple(pair) for name, pair in bounds.items()}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_that_its_role_does_not_take_is_one_sentence(case: str) -> None:
    given, told = WRONG[case]
    with pytest.raises(errors.UsageError) as caught:
        role_values.refuse_values(ROOT, {"my_own": 1, **given}, "try")
    said = str(caught.value)
    assert said.startswith("try: ") and told in said and SECRET not in said and len(said) < 300


def test_what_the_roles_take_is_taken() -> None:
    for role in ROLES:
        defaults = yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8"))
        assert role_values.wrong_values(ROOT, defaults) == "", role.name
    typed = {
        "node_omp_threads": "4", "cuda13_reuse": "No", "cuda13_environment": 1, "node_packages": ("jq",), "services_hf_patterns": "*.pt,*.json",
        "pytorch_version": 2.13,
        "stack": "cpu", "stack_roles": ["pod_setup"], "usd_per_hour": "", "workspace": "/w", "pytorch_backend": "{{ mine }}", "cutlass_timeout_seconds": None,
    }  # fmt: skip
    assert role_values.wrong_values(ROOT, typed) == ""
    # A watchdog that is to go has no pauses.
    assert role_values.wrong_values(ROOT, {"cuda_watchdog_state": "absent", "cuda_watchdog_interval_seconds": 0}) == ""


def played(playbook: str, *words: str, **given: Any) -> str:
    """What a playbook says, on one line, that must fail; its host answers nobody."""
    here = {"ansible_host": "127.0.0.1", "ansible_port": 1} if playbook == "bootstrap" else {}
    program, variables = str(Path(sys.executable).parent / "ansible-playbook"), json.dumps({**here, **given})
    command = [program, "-i", "nowhere,", *words, f"playbooks/{playbook}.yml", "-e", variables]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode, done.stdout
    return " ".join(done.stdout.split()).replace("''", "'")


def test_no_script_is_written_that_could_only_fail(tmp_path: Path) -> None:
    cases = [WRONG[name] for name in ("choice", "bounds", "price", "stack", "roles")]
    said = played("pod_setup", bootstrap_dest=str(tmp_path / "one.sh"), **{name: value for given, _told in cases for name, value in given.items()})
    assert [told for _given, told in cases if told not in said] == [] and not (tmp_path / "one.sh").exists(), said


@pytest.mark.parametrize("text", ['node_environment={"HF_TOKEN":"%s"}', 'node_environment="A=1 HF_TOKEN=%s"'])
@pytest.mark.parametrize("playbook", ["pod_setup", "template"])
def test_a_secret_in_text_is_refused_as_one_in_a_dictionary(playbook: str, text: str, tmp_path: Path) -> None:
    there = {"bootstrap_archive_source": "https://example.org/podcycle.tar.gz", "bootstrap_archive_dest": str(tmp_path / "archive")}
    said = played(playbook, "-e", text % SECRET, bootstrap_dest=str(tmp_path / "one.sh"), **(there if playbook == "template" else {}))
    assert "node_environment.HF_TOKEN looks like a secret, and whoever sees the machine can read its start script; leave it out" in said
    assert SECRET not in said and list(tmp_path.iterdir()) == []


def test_text_for_a_dictionary_or_a_list_ends_before_a_script_is_written(tmp_path: Path) -> None:
    words = ("-e", 'node_environment={"A":"b"}', "-e", "chess_training_packages=numpy")
    said = played("pod_setup", *words, bootstrap_dest=str(tmp_path / "one.sh"))
    assert "node_environment is text and has to be a dictionary" in said and 'chess_training_packages is "numpy" and has to be a list' in said
    assert not (tmp_path / "one.sh").exists()


@pytest.mark.parametrize("how", ["typed", "meant"])
def test_no_script_is_written_without_the_secret_that_was_meant_for_it(how: str, tmp_path: Path) -> None:
    variables = {"node_environment": {"HF_TOKEN": SECRET}}
    said = played("pod_setup", bootstrap_dest=str(tmp_path / "one.sh"), **({"bootstrap_variables": variables} if how == "meant" else variables))
    assert "node_environment.HF_TOKEN looks like a secret, and whoever sees the machine can read its start script; leave it out" in said
    assert SECRET not in said and not (tmp_path / "one.sh").exists()


def test_a_machine_is_not_even_asked_and_each_is_held_to_its_own(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("two node_omp_threads=many\n", encoding="utf-8")
    cases = [WRONG[name] for name in ("pair", "choice", "bounded", "stack")]
    given = {name: value for given, _told in cases for name, value in given.items()}
    said = played("bootstrap", "-i", str(tmp_path / "hosts"), **given)
    assert [told for _given, told in cases if told not in said] == [] and said.count("unreachable=0") == 2, said
    assert "set up two: " in said and 'node_omp_threads is "many" and has to be a whole number' in said and "Validation of arguments" not in said


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("pytorch_vesion=2.0", "no role has a variable pytorch_vesion; pytorch_version was meant, perhaps"),
        ("torch_version=2.0", "no role has a variable torch_version; pytorch_version was meant, perhaps"),
        ("stack_role=node", "no role has a variable stack_role; stack_roles was meant, perhaps"),
        ("my_own=1 stack=gpu", 'stack is "gpu" and has to be one of full, cpu'),
        ('{"my_own": 1, "node_omp_threads": "zero"}', 'node_omp_threads is "zero" and has to be a whole number'),
        ("node_extra_packages=jq", 'node_extra_packages is "jq" and has to be a list, such as -e'),
        ("cuda_watchdog_backoff_seconds='a b'", 'cuda_watchdog_backoff_seconds is "a b" and has to be'),
    ],
)
def test_what_was_mistyped_ends_in_2_and_says_nothing_of_the_machine(
    typed: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = tmp_path / ".podcycle/bootstrap/status.json"
    collection = status.parent / "collection/ansible_collections/podcycle/gpu"
    collection.mkdir(parents=True)
    for name in bootstrap.ROLES:
        (collection / "roles").mkdir(exist_ok=True)
        (collection / "roles" / name).symlink_to(ROOT / "roles" / name)
    status.write_text('{"state": "ok"}', encoding="utf-8")
    for name in ("bring_uv", "bring_ansible", "converge"):
        monkeypatch.setattr(pod_setup, name, lambda *_args, **_named: pytest.fail("something was done"))
    monkeypatch.setattr(pod_setup.signal, "signal", lambda *_args: None)
    monkeypatch.setenv("PODCYCLE_SETTINGS", json.dumps({"payload": "p", "variables": {}}))
    monkeypatch.setenv("PODCYCLE_TYPED", f"node_tailscale_auth_key={SECRET}\x1e{typed}\x1e")
    assert pod_setup.main(["--workspace", str(tmp_path), "--no-hook"]) == 2
    said = capsys.readouterr().out
    assert f"failed: set up this machine: {told}" in said and said.count("\n") == 1 and SECRET not in said
    assert status.read_text(encoding="utf-8") == '{"state": "ok"}'


def test_no_role_and_no_playbook_takes_the_text_false_for_true() -> None:
    """Behind -e NAME=VALUE there is text only. A module makes a boolean of what it is handed whole; Jinja does not."""
    booleans = set()
    for role in ROLES:
        options = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
        booleans |= {name for name, option in options.items() if option["type"] == "bool"}
    assert {"node_awscli", "lease_guard_required", "services_sshd"} <= booleans
    # Only playbooks say these.
    own = {"whole_cycle", "find_installs"}
    name = rf"(?P<name>{'|'.join(sorted(booleans))})\b|(?<![\w.'])(?P<other>\w+) \| default\((?:true|false|template_image is not defined)\)"
    use = re.compile(rf"(?P<whole>: \"\{{\{{ )?(?:{name})(?: \| default\((?:true|false)\))?\)?(?P<made> \| bool| is (?:not )?defined|:| \}}\}}\"\n)?")
    bare, seen = [], 0
    for path in sorted([*ROOT.glob("roles/*/*/*"), *ROOT.glob("playbooks/**/*"), ROOT / "cycle.yml"]):
        if path.suffix not in (".yml", ".j2") or path.parent.name in ("meta", "defaults", "files"):
            continue
        text = re.sub(r"(?m)^\s*#.*$", "", path.read_text(encoding="utf-8"))
        for found in use.finditer(text):
            seen += 1
            made = found["made"] or ""
            fine = made.startswith((" | bool", " is ", ":")) or found["whole"] and made.startswith(" }}")
            if not fine and (found["name"] or found["other"]) not in own:
                bare.append(f"{path.relative_to(ROOT)}: {found[0].strip()}")
    assert bare == [] and seen > 40
