# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a RunPod account owns: exact calls, and how templates, volumes, credentials and keys behave against the rehearsal cloud."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _account, _account_keys, _registries, _templates, _volumes
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_account import RunPodAccount, Template
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient
from support.harness import FULL

Change = Callable[..., dict[str, Any]]
BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAILXGDN/SclOozk1xsDztpmhGiKkkrfQB9SKoO8dSIQQ"
MINE, OTHERS = f"ssh-ed25519 {BLOB}Z me@example.com", f"ssh-ed25519 {BLOB}Y someone else"
GPU = {"id": "NVIDIA GeForce RTX 4090", "count": 1}
ROW = {"id": "t1", "name": "a", "image": "i", "args": "", "disk": 50, "mounts": {}, "ports": [], "env": {}, "registry": None, "serverless": False,
       "public": False, "category": "NVIDIA", "startSsh": True, "startJupyter": True, "allowedCudaVersions": []}  # fmt: skip


@pytest.fixture
def account(stub: Any, clock: Any) -> RunPodAccount:
    return RunPodAccount(HttpClient(stub.url, "rpa_key", "runpod", clock=clock))


@pytest.fixture
def options(rehearsal: Any, tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What a module would be given; waits cost no time."""
    init = HttpClient.__init__
    monkeypatch.setattr(HttpClient, "__init__", lambda self, *args, **more: init(self, *args, **{"clock": clock, **more}))

    def make(**more: Any) -> dict[str, Any]:
        base = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(tmp_path / "state"), "state": "present", "id": None}
        return {**base, "source": list(_templates.ALL_SOURCES), "update_password": "on_create", **more}

    return make


def call(rehearsal: Any, method: str, path: str, body: Any = None, base: str = "") -> Any:
    headers = {"Authorization": f"Bearer {FULL}"}
    request = urllib.request.Request((base or rehearsal.url) + path, None if body is None else json.dumps(body).encode(), headers, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def steps(work: Change, options: dict[str, Any], rehearsal: Any) -> dict[str, Any]:
    """In check mode and for real, each twice: check mode writes nothing and says what the real run does, the second run does nothing."""
    count = len(rehearsal.writes())
    dry = work(options, check_mode=True)
    assert dry["changed"] and len(rehearsal.writes()) == count, rehearsal.writes()
    done = work(options, check_mode=False)
    assert done["changed"] and len(rehearsal.writes()) > count and dry["diff"] == done["diff"] and done["rehearsal"] is True
    count = len(rehearsal.writes())
    for check_mode in (True, False):
        again = work(options, check_mode=check_mode)
        assert not again["changed"] and len(rehearsal.writes()) == count and again["diff"]["before"] == again["diff"]["after"], again
    return done


# ---- exact calls ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "status", "answer", "expected"),
    [
        (lambda own: own.templates(), 200, {"templates": [ROW]}, ("GET", "/v2/templates", None)),
        (lambda own: own.public_templates("verified"), 200, {"templates": []}, ("GET", "/v2/catalog/templates?source=verified", None)),
        (lambda own: own.template("t1"), 200, ROW, ("GET", "/v2/templates/t1", None)),
        (lambda own: own.create_template({"name": "a", "image": "i"}), 201, ROW, ("POST", "/v2/templates", {"name": "a", "image": "i"})),
        (lambda own: own.update_template("t1", {"disk": 9}), 200, ROW, ("PATCH", "/v2/templates/t1", {"disk": 9})),
        (lambda own: own.delete_template("t1"), 204, None, ("DELETE", "/v2/templates/t1", None)),
        (lambda own: own.volumes(), 200, {"networkVolumes": []}, ("GET", "/v2/network-volumes", None)),
        (lambda own: own.create_volume("v", 10, "EU-RO-1", "high_performance"), 201, {"id": "v1", "name": "v", "size": 10, "dataCenter": "EU-RO-1"},
         ("POST", "/v2/network-volumes", {"name": "v", "size": 10, "dataCenter": "EU-RO-1", "type": "HIGH_PERFORMANCE"})),
        (lambda own: own.create_volume("v", 10, "EU-RO-1", None), 201, {"id": "v1", "name": "v", "size": 10, "dataCenter": "EU-RO-1"},
         ("POST", "/v2/network-volumes", {"name": "v", "size": 10, "dataCenter": "EU-RO-1"})),
        (lambda own: own.delete_volume("v1"), 204, None, ("DELETE", "/v2/network-volumes/v1", None)),
        (lambda own: own.data_centers(), 200, {"dataCenters": [{"id": "A", "networkVolumeTypes": ["STANDARD"]}]}, ("GET", "/v2/catalog/datacenters", None)),
        (lambda own: own.registries(), 200, {"registries": [{"id": "r", "name": "hub"}]}, ("GET", "/v2/registries", None)),
        (lambda own: own.create_registry("hub", "u", "p"), 201, {"id": "r", "name": "hub"},
         ("POST", "/v2/registries", {"name": "hub", "username": "u", "password": "p"})),
        (lambda own: own.delete_registry("r"), 204, None, ("DELETE", "/v2/registries/r", None)),
        (lambda own: own.ssh_keys(), 200, {"keys": []}, ("GET", "/v2/account/ssh-keys", None)),
        (lambda own: own.replace_ssh_keys([MINE]), 200, {"keys": [MINE]}, ("PUT", "/v2/account/ssh-keys", {"keys": [MINE]})),
        (lambda own: own.tenants(), 200, {"pods": []}, ("GET", "/v2/pods?limit=1000&includeClusterPods=true", None)),
    ],
)  # fmt: skip
def test_one_call_each(account: RunPodAccount, stub: Any, told: Any, act: Any, status: int, answer: Any, expected: Any) -> None:
    stub.tell(told(status, answer))
    act(account)
    assert stub.seen == [expected]


def test_lists_are_read_to_their_end(account: RunPodAccount, stub: Any, told: Any) -> None:
    page = {"templates": [ROW], "pagination": {"nextCursor": "c", "hasNextPage": True}}
    stub.tell(told(200, page), told(200, {"templates": [{**ROW, "id": "t2"}]}))
    assert [one.id for one in account.templates()] == ["t1", "t2"]
    assert stub.calls == [("GET", "/v2/templates"), ("GET", "/v2/templates?cursor=c")]


@pytest.mark.parametrize("body", [{}, [], {"templates": {}}, {"templates": [1]}, {"templates": [{"name": "x"}]}, {"templates": [{"id": 5, "name": "x"}]}, "x"])
def test_a_strange_list_is_no_empty_list(account: RunPodAccount, stub: Any, told: Any, body: Any) -> None:
    stub.tell(told(200, body))
    with pytest.raises(errors.SchemaError, match="GET /templates on runpod answered with"):
        account.templates()


@pytest.mark.parametrize("work", ["template", "update_template", "delete_template", "delete_volume", "update_volume", "delete_registry"])
def test_an_id_is_no_path(account: RunPodAccount, stub: Any, work: str) -> None:
    with pytest.raises(errors.UsageError, match="is not an id"):
        getattr(account, work)("../pods/x", *([{}] if work.startswith("update") else []))
    assert stub.seen == []


# ---- templates --------------------------------------------------------------------------------


def test_a_template_from_creation_to_deletion(options: Any, rehearsal: Any) -> None:
    wish = {"name": "t", "image": "runpod/base:1", "ports": ["22/tcp", "8888/http"], "env": {"A": "1"}, "volume_gib": 20, "cuda_versions": ["13.0", "12.8"]}
    made = steps(_templates.change_template, options(**wish), rehearsal)
    assert made["template"]["volume_path"] == "/workspace" and made["diff"]["before"] == {}
    sent = [row["body"] for row in rehearsal.requests("POST")]
    assert sent == [
        {"name": "t", "image": "runpod/base:1", "ports": ["22/tcp", "8888/http"], "env": {"A": "1"}, "allowedCudaVersions": ["13.0", "12.8"],
         "mounts": {"persistent": {"size": 20, "path": "/workspace"}}}
    ]  # fmt: skip
    changed = steps(_templates.change_template, options(**{**wish, "ports": ["8888/http", "22/tcp"], "disk_gib": 30, "volume_path": "/data"}), rehearsal)
    assert [row["body"] for row in rehearsal.requests("PATCH")] == [{"disk": 30, "mounts": {"persistent": {"size": 20, "path": "/data"}}}]
    assert changed["diff"] == {"before": {"disk_gib": 50, "volume_path": "/workspace"}, "after": {"disk_gib": 30, "volume_path": "/data"}}
    assert changed["template"]["env"] == {"A": "1"}, "what was not asked for stays"
    renamed = steps(_templates.change_template, options(name="u", id=made["template"]["id"]), rehearsal)
    assert renamed["template"]["name"] == "u"
    gone = steps(_templates.change_template, options(name="u", state="absent"), rehearsal)
    assert gone["diff"]["after"] == {} and call(rehearsal, "GET", "/templates") == {"templates": []}


def test_secrets_of_a_template_are_compared_and_never_shown(options: Any, rehearsal: Any) -> None:
    wish = {"name": "t", "image": "i", "env": {"A": "1", "WANDB_TOKEN": "plainly-typed"}, "secret_env": {"HF": "hush-hush-1"}}
    made = steps(_templates.change_template, options(**wish), rehearsal)
    assert made["template"]["env"] == {"A": "1", "WANDB_TOKEN": "(hidden)", "HF": "(hidden)"}
    changed = steps(_templates.change_template, options(**{**wish, "secret_env": {"HF": "hush-hush-2"}}), rehearsal)
    assert changed["diff"]["after"]["env"]["HF"] == "(hidden), another one"
    assert call(rehearsal, "GET", "/templates")["templates"][0]["env"]["HF"] == "hush-hush-2"
    assert "hush-hush" not in str((made, changed)) and "plainly-typed" not in str((made, changed))


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"name": "t"}, "image is missing"), ({"name": "t", "image": "i", "ports": ["22"]}, "22/tcp"),
        ({"name": "t", "image": "i", "ports": ["99999/tcp"]}, "from 1 to 65535"), ({"name": "t", "image": "i", "volume_gib": 5}, "10 GiB"),
        ({"name": "t", "image": "i", "cuda_versions": ["13"]}, "12.8"), ({"name": "t", "image": "i", "disk_gib": 0}, "disk_gib"),
        ({"name": "t", "image": "i", "volume_gib": 10, "volume_path": "data"}, "absolute"), ({"id": "nosuch", "image": "i"}, "leave the id out"),
        ({"name": "t", "image": "i", "registry": "hub"}, "registry credential 'hub'; there are: none"),
        ({"name": "t", "image": "i", "args": "x" * 110_000}, "102400"), ({"image": "i"}, "Neither name nor id"),
        ({"name": "t", "image": "i", "secret_env": {"PIN": "1234567"}}, "'PIN' is shorter than 8 characters"),
        ({"name": "t", "image": "i", "env": {f"V{number}": "" for number in range(51)}}, "51 variables"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_is_refused_before_anything_is_written(options: Any, rehearsal: Any, wish: dict[str, Any], words: str) -> None:
    for check_mode in (True, False):
        with pytest.raises(errors.UsageError, match=words):
            _templates.change_template(options(**{"name": None, **wish}), check_mode=check_mode)
    assert rehearsal.writes() == []


def test_a_long_start_command_is_told_by_its_digest(options: Any) -> None:
    made = _templates.change_template(options(name="t", image="i", args="a" * 5000), check_mode=False)
    changed = _templates.change_template(options(name="t", args="a" * 4999 + "b"), check_mode=True)
    assert made["template"]["args"] == "a" * 5000 and "(5000 characters, sha256 " in changed["diff"]["before"]["args"]
    assert changed["diff"]["before"] != changed["diff"]["after"] and len(str(changed["diff"])) < 500


def test_a_diff_tells_a_line_break_from_a_space(options: Any) -> None:
    def saved(value: str, args: str) -> dict[str, Any]:
        return _templates.change_template(options(name="t", image="i", env={"A": value, "B": "it's \"quoted\""}, args=args), check_mode=False)

    texts = ["a\nb", "a b", '"a\\nb"', "a b ", "a\\nb", "a\u202eb"]
    saved("x", "x")
    for text in texts:
        changed = saved(text, text)
        before, after = changed["diff"]["before"], changed["diff"]["after"]
        assert before["env"] != after["env"] and before["args"] != after["args"], text
        assert after["env"]["B"] == "it's \"quoted\"" and (after["env"]["A"] == after["args"]) and "\u202e" not in str(changed)
        assert not saved(text, text)["changed"]
    assert saved("a\nb", "#!/bin/sh\necho")["diff"]["after"] == {"args": '"#!/bin/sh\\necho"', "env": {"A": '"a\\nb"', "B": "it's \"quoted\""}}
    long = "a" * 5000
    told = [saved("x", long + mark)["diff"]["after"]["args"] for mark in (" b", "\nb")]
    assert told[0] != told[1] and all("(5002 characters, sha256 " in text for text in told)


def test_two_templates_of_a_name_are_told_by_their_ids(options: Any, rehearsal: Any) -> None:
    ids = [call(rehearsal, "POST", "/templates", {"name": "t", "image": image})["id"] for image in "ab"]
    for state in ("present", "absent"):
        with pytest.raises(errors.UsageError, match=f"2 templates are named 't': {ids[0]}, {ids[1]}; say which one with id"):
            _templates.change_template(options(name="t", image="c", state=state), check_mode=False)
    assert _templates.change_template(options(name=None, id=ids[1], state="absent"), check_mode=False)["changed"]
    assert [row["id"] for row in call(rehearsal, "GET", "/templates")["templates"]] == [ids[0]]


def test_a_volume_cannot_be_taken_out_of_a_template(options: Any, rehearsal: Any) -> None:
    wish = {"name": "t", "image": "i"}
    _templates.change_template(options(**wish, volume_gib=20), check_mode=False)
    with pytest.raises(errors.UsageError, match="state=absent and create it again"):
        _templates.change_template(options(**wish, volume_gib=0), check_mode=True)
    assert not _templates.change_template(options(**wish), check_mode=False)["changed"]


@pytest.mark.parametrize("fault", ["error_500_after_effect", "reply_cut", "no_reply"])
def test_a_create_in_doubt_is_looked_for_and_not_repeated(options: Any, rehearsal: Any, fault: str) -> None:
    rehearsal.fault(fault, match={"method": "POST", "path": "^/v2/templates$"})
    done = _templates.change_template(options(name="t", image="i"), check_mode=False)
    assert done["changed"] and done["template"]["id"] and len(call(rehearsal, "GET", "/templates")["templates"]) == 1
    assert len(rehearsal.requests("POST")) == 1


def test_a_create_in_doubt_that_is_not_found_says_where_to_look(options: Any, rehearsal: Any) -> None:
    rehearsal.fault("error_500", match={"method": "POST", "path": "^/v2/templates$"})
    with pytest.raises(errors.ServerError, match="create template t: POST /templates on runpod: HTTP 500.*not seen in three looks: look for template t in"):
        _templates.change_template(options(name="t", image="i"), check_mode=False)
    assert len(rehearsal.requests("POST")) == 1


def test_looks_that_fail_do_not_hide_what_may_have_been_made(options: Any, stub: Any, told: Any) -> None:
    busy, none = told(503, {"title": "Busy"}), told(200, {"networkVolumes": []})
    centers = told(200, {"dataCenters": [{"id": "A", "networkVolumeTypes": ["STANDARD"]}]})
    stub.tell(none, told(200, {"pods": []}), centers, told(silent=True), busy)
    with pytest.raises(errors.NoReply, match="create network volume v: .*it may exist all the same.*RunPod's console before you type the command again"):
        _volumes.change_volume(options(endpoint=stub.url, name="v", size_gib=10, data_center="A"), check_mode=False)
    assert [method for method, _path in stub.calls].count("POST") == 1


def test_a_template_that_a_pod_refers_to_stays_and_the_pod_is_named(options: Any, rehearsal: Any) -> None:
    made = _templates.change_template(options(name="t", image="i", disk_gib=20), check_mode=False)["template"]
    wish = {"name": "p", "gpuTypeId": GPU["id"], "gpuCount": 1, "templateId": made["id"]}
    text = "mutation($i: PodFindAndDeployOnDemandInput) { podFindAndDeployOnDemand(input: $i) { id } }"
    answer = call(rehearsal, "POST", "/graphql", {"query": text, "variables": {"i": wish}}, base=rehearsal.url.removesuffix("/v2"))
    pod = answer["data"]["podFindAndDeployOnDemand"]["id"]
    with pytest.raises(errors.InvalidRequest, match=rf"delete template t \({made['id']}\): .*in use.*: {pod} \(p, "):
        _templates.change_template(options(name="t", state="absent"), check_mode=False)


def test_templates_are_found_by_whole_name_then_by_a_part_that_only_one_has(options: Any, rehearsal: Any) -> None:
    def find(name: str, **more: Any) -> str:
        (found,) = _templates.template_info(options(name=name, **more))["templates"]
        return f"{found['source']} {found['id']}"

    assert find("runpod ubuntu") == find("runpod-ubuntu") == "official runpod-ubuntu"
    assert find("pytorch 2.8") == "official 30zmvf89kd" and find("axolotl") == "community n0vcqp5ycc", "a whole name, beside a longer one"
    own = call(rehearsal, "POST", "/templates", {"name": "Axolotl", "image": "i"})["id"]
    assert find("axolotl") == f"own {own}" and find("axolotl", source=["community"]) == "community n0vcqp5ycc"
    with pytest.raises(errors.UsageError, match=r"'pytorch' is ambiguous; it may be: Runpod Pytorch 2.8.0 \(official, 30zmvf89kd\), Runpod Pytorch 2.1"):
        find("pytorch")
    with pytest.raises(errors.UsageError, match="there is no template 'nosuch' among own, official, verified, community; list them with"):
        find("nosuch")
    rows = _templates.template_info(options(name=None))["templates"]
    assert {row["source"] for row in rows} == set(_templates.ALL_SOURCES) and rows[0]["id"] == own
    (by_id,) = _templates.template_info(options(name=None, id="x2p8k1m4ra"))["templates"]
    assert by_id["name"] == "Axolotl nightly"
    with pytest.raises(errors.NotFound, match="read the templates: GET /templates/nosuch"):
        _templates.template_info(options(name=None, id="nosuch"))


def test_a_catalog_that_shows_only_so_many_is_told(stub: Any, told: Any, account: RunPodAccount) -> None:
    stub.tell(told(200, {"templates": [{**ROW, "id": f"t{number}"} for number in range(100)]}))
    with pytest.raises(errors.UsageError, match="only 100 of its community templates: one that is not shown is found by its id"):
        _templates.named_template(account, "zzz", ["community"])


def test_what_a_template_says_is_hostile() -> None:
    row = Template("t1", "a\x1b[31m\u202eb", "i\x00", args="x\x07", env={"A": "\x1b]0;title\x07", "B\n": "ü"})
    text = json.dumps(_templates.shown(row), ensure_ascii=False)
    assert not any(mark in text for mark in ("\x1b", "\u202e", "\\u0000", "\\u0007", "\\n"))


def test_what_the_other_lists_say_is_hostile(stub: Any, told: Any, options: Any) -> None:
    bad = "a\x1b[31m\u202eb\n"
    pod = {"id": "p1", "name": bad, "status": bad, "mounts": {"network": [{"volumeId": "v1"}]}, "registry": 5, "template": []}
    stub.tell(told(200, {"networkVolumes": [{"id": "v1", "name": bad, "size": 10, "dataCenter": bad, "type": bad}]}), told(200, {"pods": [pod]}))
    found = _volumes.volume_info(options(endpoint=stub.url, name=None))
    stub.tell(told(200, {"registries": [{"id": "r1", "name": bad}]}))
    renewed = _registries.change_registry(
        options(endpoint=stub.url, name=None, id="r1", username="u", password="hush-hush", update_password="always"), check_mode=True
    )
    stub.tell(told(200, {"keys": [bad, MINE]}))
    keys = _account_keys.change_key(options(endpoint=stub.url, public_key=OTHERS), check_mode=True)
    text = json.dumps((found, renewed, {**keys, "diff": ""}), ensure_ascii=False)
    assert found["network_volumes"][0]["pods"] and not any(mark in text for mark in ("\x1b", "\u202e", "\\n"))
    assert keys["ssh_keys"][0].startswith("a ") and "\x1b" not in keys["diff"]["before"]


# ---- network volumes ----------------------------------------------------------------------------


def test_a_volume_from_creation_to_deletion(options: Any, rehearsal: Any) -> None:
    wish = {"name": "v", "size_gib": 50, "data_center": "EU-RO-1"}
    made = steps(_volumes.change_volume, options(**wish), rehearsal)
    assert made["network_volume"]["usd_per_month"] == "3.5000" == made["diff"]["after"]["usd_per_month"]
    grown = steps(_volumes.change_volume, options(name="v", size_gib=2000), rehearsal)
    assert (grown["diff"]["before"]["usd_per_month"], grown["diff"]["after"]["usd_per_month"]) == ("3.5000", "120.0000")
    volume_id = made["network_volume"]["id"]
    steps(_volumes.change_volume, options(name="w", id=volume_id), rehearsal)
    assert [row["body"] for row in rehearsal.requests("PATCH")] == [{"size": 2000}, {"name": "w"}]
    assert [row["name"] for row in _volumes.volume_info(options(name=None))["network_volumes"]] == ["w"]
    steps(_volumes.change_volume, options(name="w", state="absent"), rehearsal)
    assert _volumes.volume_info(options(name="w"))["network_volumes"] == []


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"size_gib": 9}, "10 to 4096"), ({"size_gib": 5000}, "10 to 4096"), ({"name": "new", "size_gib": 10}, "needs name, size_gib and data_center"),
        ({"name": "new", "size_gib": 10, "data_center": "MARS-1"}, "'MARS-1' is not known to RunPod; choose of: AP-JP-1, "),
        ({"name": "new", "size_gib": 10, "data_center": "OC-AU-1"}, "'OC-AU-1' offers no network volumes; choose of: AP-JP-1"),
        ({"name": "new", "size_gib": 10, "data_center": "EU-RO-1", "tier": "high_performance"}, "choose of: US-KS-2"),
        ({"size_gib": 10}, "never shrinks to 10"), ({"data_center": "EU-CZ-1"}, "its data_center is EU-RO-1 for as long as it lives, not EU-CZ-1"),
        ({"tier": "high_performance"}, "its tier is standard"), ({"id": "nosuch", "name": None}, "leave the id out"),
    ],
)  # fmt: skip
def test_a_volume_that_cannot_be_is_refused_before_anything_is_written(options: Any, rehearsal: Any, wish: dict[str, Any], words: str) -> None:
    _volumes.change_volume(options(name="v", size_gib=50, data_center="EU-RO-1"), check_mode=False)
    writes = rehearsal.writes()
    for check_mode in (True, False):
        with pytest.raises(errors.UsageError, match=words):
            _volumes.change_volume(options(**{"name": "v", **wish}), check_mode=check_mode)
    assert rehearsal.writes() == writes


def test_a_volume_in_use_stays_and_its_pods_are_named(options: Any, rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = _volumes.change_volume(options(name="v", size_gib=50, data_center="EU-RO-1"), check_mode=False)["network_volume"]
    mounts = {"network": [{"volumeId": volume["id"], "path": "/workspace"}]}
    pods = [rehearsal.create({"name": name, "image": "i", "gpu": GPU, "mounts": mounts})["id"] for name in ("one", "two")]
    call(rehearsal, "POST", f"/pods/{pods[1]}/action", {"action": "stop"})
    writes = rehearsal.writes()
    for check_mode in (True, False):
        with pytest.raises(errors.Conflict, match=rf"in use by pod {pods[0]} \(one, .*\), {pods[1]} \(two, exited\); give these pods back first") as caught:
            _volumes.change_volume(options(name="v", state="absent"), check_mode=check_mode)
        assert caught.value.details["pods"] == pods
    assert rehearsal.writes() == writes
    with pytest.raises(errors.InvalidRequest, match="You must remove this network volume from all pods.*a serverless endpoint may use it"):
        monkeypatch.setattr(_volumes, "refuse_in_use", lambda *words: None)
        _volumes.change_volume(options(name="v", state="absent"), check_mode=False)
    (row,) = _volumes.volume_info(options(name="v"))["network_volumes"]
    assert [pod["id"] for pod in row["pods"]] == pods and row["pods"][1]["status"] == "exited"


def test_a_volume_is_paid_once_when_the_answer_is_lost(options: Any, rehearsal: Any) -> None:
    rehearsal.fault("no_reply", match={"method": "POST", "path": "^/v2/network-volumes$"})
    done = _volumes.change_volume(options(name="v", size_gib=50, data_center="EU-RO-1"), check_mode=False)
    assert done["changed"] and len(call(rehearsal, "GET", "/network-volumes")["networkVolumes"]) == 1


def test_gone_in_between_is_gone(options: Any, rehearsal: Any) -> None:
    """The answer to the first delete is lost on its way: the second time it is not there any more."""
    for work, kind, wish in (
        (_volumes.change_volume, "network-volumes", {"name": "v", "size_gib": 50, "data_center": "EU-RO-1"}),
        (_templates.change_template, "templates", {"name": "v", "image": "i"}),
    ):
        work(options(**wish), check_mode=False)
        rehearsal.fault("no_reply", match={"method": "DELETE", "path": f"^/v2/{kind}"})
        with pytest.raises(errors.NoReply, match="delete .* v "):
            work(options(name="v", state="absent"), check_mode=False)
        assert not work(options(name="v", state="absent"), check_mode=False)["changed"]


def test_what_somebody_else_deletes_first_is_gone_too(stub: Any, told: Any, options: Any) -> None:
    """It was there when we looked, and is not when we act."""
    volume = {"id": "v1", "name": "v", "size": 10, "dataCenter": "EU-RO-1"}
    gone = told(404, {"title": "Not Found", "detail": "not found"}, content_type="application/problem+json")
    here = {"endpoint": stub.url, "name": "v", "state": "absent"}
    stub.tell(told(200, {"networkVolumes": [volume]}), told(200, {"pods": []}), gone)
    assert _volumes.change_volume(options(**here), check_mode=False)["changed"] and stub.calls[-1] == ("DELETE", "/v2/network-volumes/v1")
    stub.tell(told(200, {"templates": [{**ROW, "name": "v"}]}), gone)
    assert _templates.change_template(options(**here), check_mode=False)["changed"] and stub.calls[-1] == ("DELETE", "/v2/templates/t1")
    stub.tell(told(200, {"registries": [{"id": "r1", "name": "v"}]}), told(200, {"pods": []}), told(200, {"templates": []}), gone)
    assert _registries.change_registry(options(**here), check_mode=False)["changed"] and stub.calls[-1] == ("DELETE", "/v2/registries/r1")


# ---- registry credentials -------------------------------------------------------------------------


def test_a_credential_from_creation_to_deletion(options: Any, rehearsal: Any) -> None:
    wish = {"name": "hub", "username": "me", "password": "hush-hush"}
    made = steps(_registries.change_registry, options(**wish), rehearsal)
    template = _templates.change_template(options(name="t", image="i", registry="hub"), check_mode=False)
    assert template["template"]["registry"] == made["registry_auth"]["id"] and template["warnings"] == []
    assert steps(_templates.change_template, options(name="t", registry=""), rehearsal)["template"]["registry"] is None
    assert steps(_templates.change_template, options(name="t", registry=made["registry_auth"]["id"]), rehearsal)["template"]["registry"]
    gone = steps(_registries.change_registry, options(name="hub", state="absent"), rehearsal)
    assert gone["warnings"] == ["these templates lose their credential with hub: t"]
    assert "hush-hush" not in str((made, gone)) + str(rehearsal.requests())


def test_a_password_is_written_again_on_demand_and_the_id_stays(options: Any, rehearsal: Any) -> None:
    wish = {"name": "hub", "username": "me", "password": "hush-hush"}
    made = _registries.change_registry(options(**wish), check_mode=False)
    assert not _registries.change_registry(options(**{**wish, "password": "other-one"}), check_mode=False)["changed"]
    writes = rehearsal.writes()
    always = options(**{**wish, "password": "other-one"}, update_password="always")
    dry = _registries.change_registry(always, check_mode=True)
    assert dry["changed"] and rehearsal.writes() == writes
    done = _registries.change_registry(always, check_mode=False)
    assert done["registry_auth"] == made["registry_auth"] and done["diff"] == dry["diff"] and rehearsal.writes()[len(writes) :] == [("POST", "/graphql")]
    with pytest.raises(errors.UsageError, match="needs username and password"):
        _registries.change_registry(options(name="hub", update_password="always"), check_mode=True)
    assert "other-one" not in str(rehearsal.requests())


def test_a_credential_in_use_stays(options: Any, rehearsal: Any) -> None:
    made = _registries.change_registry(options(name="hub", username="me", password="hush-hush"), check_mode=False)["registry_auth"]
    pod = rehearsal.create({"name": "p", "image": "i", "gpu": GPU, "registry": made["id"]})["id"]
    with pytest.raises(errors.Conflict, match=rf"delete registry credential hub \({made['id']}\): in use by pod {pod}"):
        _registries.change_registry(options(name="hub", state="absent"), check_mode=True)


# ---- SSH keys ---------------------------------------------------------------------------------------


def test_a_key_comes_and_goes_and_the_others_stay(options: Any, rehearsal: Any) -> None:
    call(rehearsal, "PUT", "/account/ssh-keys", {"keys": [OTHERS]})
    done = steps(_account_keys.change_key, options(public_key=MINE + "\n"), rehearsal)
    assert done["ssh_keys"] == [OTHERS, MINE] and done["ssh_key"]["fingerprint"].startswith("SHA256:")
    again = _account_keys.change_key(options(public_key=MINE.replace("me@example.com", "another comment")), check_mode=False)
    assert not again["changed"] and again["ssh_keys"] == [OTHERS, MINE]
    gone = steps(_account_keys.change_key, options(public_key=f"ssh-ed25519 {BLOB}Z", state="absent"), rehearsal)
    assert gone["ssh_keys"] == [OTHERS] == call(rehearsal, "GET", "/account/ssh-keys")["keys"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"), ("ssh-ed25519", "not one line"), (f"{MINE}\n{OTHERS}", "not one line"),
     ("ssh-rsa " + BLOB + "Z", "not one"), ('command="x" ' + MINE, "not one line"), ("ssh-ed25519 !!!!", "not one line"), ("", "not one line")],
)  # fmt: skip
def test_what_is_no_public_key_is_refused(options: Any, rehearsal: Any, text: str, words: str) -> None:
    with pytest.raises(errors.UsageError, match=words):
        _account_keys.change_key(options(public_key=text), check_mode=False)
    assert rehearsal.requests() == []


def test_a_change_that_another_writer_undid_is_made_again(options: Any, rehearsal: Any, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who had read the list before we wrote writes it back, with a key of their own."""
    call(rehearsal, "PUT", "/account/ssh-keys", {"keys": [OTHERS]})
    third = OTHERS.replace(f"{BLOB}Y", f"{BLOB}X")
    stale = iter([[OTHERS, third]])

    def sleep(seconds: float) -> None:
        for keys in stale:
            call(rehearsal, "PUT", "/account/ssh-keys", {"keys": keys})
            break

    monkeypatch.setattr(clock, "sleep", sleep)
    done = _account_keys.change_key(options(public_key=MINE), check_mode=False)
    assert done["changed"] and done["ssh_keys"] == [OTHERS, third, MINE] == call(rehearsal, "GET", "/account/ssh-keys")["keys"]


def test_a_list_with_lines_that_are_no_keys_is_left_alone_and_they_are_named(options: Any, rehearsal: Any) -> None:
    """The console and GraphQL take what REST refuses."""
    body = {"query": 'mutation { updateUserSettings(input: {pubKey: "from-the-console rubbish"}) { id } }'}
    call(rehearsal, "POST", "/graphql", body, base=rehearsal.url.removesuffix("/v2"))
    with pytest.raises(errors.InvalidRequest, match="HTTP 422.*which stand in the account: from-the-console rubbish. Mend them"):
        _account_keys.change_key(options(public_key=MINE), check_mode=False)
    assert call(rehearsal, "GET", "/account/ssh-keys")["keys"] == ["from-the-console rubbish"]


def test_a_writer_that_never_stops_is_told(options: Any, rehearsal: Any, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "sleep", lambda seconds: call(rehearsal, "PUT", "/account/ssh-keys", {"keys": [OTHERS]}))
    with pytest.raises(errors.Conflict, match="add SSH key SHA256:.*another program writes the account's keys at the same time: 5 times"):
        _account_keys.change_key(options(public_key=MINE), check_mode=False)


def test_many_runs_on_one_machine_lose_no_key(options: Any, rehearsal: Any) -> None:
    lines = [f"ssh-ed25519 {BLOB[:-1]}{letter}Z run-{letter}" for letter in "QRSTUV"]
    threads = [threading.Thread(target=_account_keys.change_key, args=(options(public_key=line),), kwargs={"check_mode": False}) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(call(rehearsal, "GET", "/account/ssh-keys")["keys"]) == sorted(lines)
    assert len(rehearsal.requests("PUT")) == len(lines), "taking turns, nobody is undone"


@pytest.mark.parametrize("fault", ["no_reply", "reply_cut", "error_500_after_effect", "error_500"])
def test_a_write_in_doubt_is_settled_by_reading(options: Any, rehearsal: Any, fault: str) -> None:
    rehearsal.fault(fault, match={"method": "PUT", "path": "ssh-keys"})
    done = _account_keys.change_key(options(public_key=MINE), check_mode=False)
    assert done["changed"] and call(rehearsal, "GET", "/account/ssh-keys")["keys"] == [MINE]


# ---- what all share -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["rpa_rehearsal_readonly", "rpa_wrong"])
def test_a_failure_says_what_was_tried_on_what(options: Any, rehearsal: Any, key: str) -> None:
    kind, words = (errors.Forbidden, "does not have access") if "readonly" in key else (errors.Unauthorized, "invalid")
    for work, wish in (
        (_templates.change_template, {"name": "thing", "image": "i"}),
        (_volumes.change_volume, {"name": "thing", "size_gib": 10, "data_center": "EU-RO-1"}),
        (_registries.change_registry, {"name": "thing", "username": "u", "password": "hush-hush"}),
    ):
        with pytest.raises(kind, match=f"thing: .* on runpod: HTTP 40[13].*{words}") as caught:
            work(options(**wish, api_key=key), check_mode=False)
        assert caught.value.hint and key not in str(errors.failure(caught.value))


def test_the_documented_account_options_are_those_of_every_module() -> None:
    assert _account.runpod_spec()["api_key"]["no_log"] is True and _account.runpod_spec()["cloud"]["choices"] == ["runpod"]
