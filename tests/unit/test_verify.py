# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A finished run is verified from what lies there and what the cloud shows: each damage is found by its own name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._ledger import Lease, Ledger
from ansible_collections.podcycle.gpu.plugins.module_utils._model import utc_now
from ansible_collections.podcycle.gpu.plugins.module_utils._verify import verify
from support.harness import FULL

FILES = {"model.pt": b"weights", "metrics.jsonl": b"{}\n"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of two pods that ended well."""
    folder = tmp_path / "cycles" / "r1"

    def write(name: str, body: Any) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())

    pods = []
    for index in (0, 1):
        for name, content in FILES.items():
            write(f"collected/run_artifacts/pod-{index}/{name}", content)
        write(f"collected/run_artifacts/pod-{index}/jobs/train/status.json", {"exit_code": 0})
        write(f"local_validation/pod-{index}-validation.json", {"ok": True})
        rows = [{"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()]
        pods.append({"pod": f"r1-{index}", "id": f"gone{index}", "files": rows, "refused": []})
    write("collected/manifest.json", {"run_id": "r1", "pods": pods})
    write("provision.json", {"run_id": "r1", "cloud": "runpod", "pods": [{"id": "gone0"}, {"id": "gone1"}]})
    write("run.json", {"cloud": "runpod"})
    write("cost.json", {"cost_usd": "0.0123"})
    stages = [{"ts": "2026-11-01T10:00:00Z", "stage": stage, "phase": stage, "status": "ok"} for stage in ("collect", "validate", "stop")]
    started = [{"ts": "2026-11-01T10:00:00Z", "stage": "start", "phase": "start", "status": status} for status in ("started", "ok")]
    write("events.jsonl", "".join(json.dumps(event) + "\n" for event in [*started, *stages]).encode())
    return folder


@pytest.fixture
def verified(rehearsal: Any, state: Any, run: Path) -> Callable[..., dict[str, Any]]:
    (run / "run.json").write_text(json.dumps({"cloud": "runpod", "endpoint": rehearsal.url}))
    ledger = Ledger(state, "runpod", rehearsal.url)
    for index in (0, 1):
        lease = ledger.begin("r1", "pod", index, "0123456789ab", {}, utc_now())
        ledger.write(lease.stamp, "leased", pod_id=f"gone{index}")
        ledger.write(lease.stamp, "released", pod_id=f"gone{index}")

    def look(**options: Any) -> dict[str, Any]:
        account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(state.path)}
        found = verify({**account, "run_dir": str(run), **options})
        assert found["ok"] is all(one["ok"] for one in found["findings"])
        found["bad"] = {one["name"]: one["found"] for one in found["findings"] if not one["ok"]}
        return found

    return look


def test_a_whole_run_is_whole(verified: Any) -> None:
    found = verified()
    assert found["ok"], found["bad"]
    assert found["findings"][-1]["found"] == "runpod knows none of them any more" and len(found["findings"]) == 12


@pytest.mark.parametrize("cost", [b'{"cost_usd": "0.0123"}', b'{"cost_usd": "dear"}'])
def test_what_pods_have_cost_after_the_report_is_told(verified: Any, run: Path, monkeypatch: pytest.MonkeyPatch, cost: bytes) -> None:
    (run / "cost.json").write_bytes(cost)
    monkeypatch.setattr(Lease, "cost", lambda _lease, _now: Decimal("0.25"))
    found = verified()
    told = next(one["found"] for one in found["findings"] if one["name"] == "ledger")
    late = ", for 0.5000 $; cost.json is older, and written anew by: ansible-playbook playbooks/stop.yml -e run_id=r1"
    assert found["ok"] and told == "every lease of the run is closed, 2 in all" + ("" if b"dear" in cost else late)


@pytest.mark.parametrize(
    ("name", "content", "bad", "words"),
    [
        ("collected/run_artifacts/pod-1/model.pt", b"weightz", "artifacts of r1-1", "model.pt is not what was collected"),
        ("collected/run_artifacts/pod-0/metrics.jsonl", None, "artifacts of r1-0", "metrics.jsonl is missing"),
        ("collected/run_artifacts/pod-0/jobs/train/status.json", b'{"exit_code": 7}', "training of r1-0", "ended with 7"),
        ("collected/run_artifacts/pod-0/jobs/train/status.json", None, "training of r1-0", "no status"),
        ("local_validation/pod-1-validation.json", b'{"ok": false}', "validation", "1 of 2"),
        ("cost.json", None, "cost", "missing"),
        ("provision.json", b"[", "provision", "missing, or names no pod"),
        ("collected/manifest.json", b"{}", "artifacts", "missing, or names no pod"),
        ("events.jsonl", b"", "stages", "did not come to its end"),
    ],
)
def test_each_damage_is_found(verified: Any, run: Path, name: str, content: bytes | None, bad: str, words: str) -> None:
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    found = verified()
    assert not found["ok"] and words in found["bad"][bad], found["bad"]


def test_a_manifest_that_leads_out_of_the_folder_reads_nothing_there(verified: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "cycles" / "secret").write_bytes(b"weights")
    manifest = json.loads((run / "collected/manifest.json").read_text())
    manifest["pods"][0]["files"][0]["path"] = "../../../../secret"
    (run / "collected/manifest.json").write_text(json.dumps(manifest))
    assert "secret is missing" in verified()["bad"]["artifacts of r1-0"]


def test_a_pod_that_still_lives_is_told_with_what_to_type(
    verified: Any, run: Path, make_engine: Any, make_wish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slot,) = make_engine().rent(make_wish(), check_mode=False)
    told = json.loads((run / "provision.json").read_text())
    told["pods"][0]["id"] = slot.after.id
    (run / "provision.json").write_text(json.dumps(told))
    bad = verified()["bad"]
    assert set(bad) == {"pods gone", "ledger"} and f"{slot.after.id} is running" in bad["pods gone"] and "stop.yml -e run_id=r1" in bad["pods gone"]
    assert verified(require_gone=False)["ok"]

    def unasked(self: Any, pod_id: str) -> Any:
        raise errors.ServerError("GET /pods on runpod: HTTP 500")

    monkeypatch.setattr(RunPod, "get", unasked)
    assert "cannot be looked up" in verified()["bad"]["pods gone"], "what cannot be asked is no proof"


def test_a_run_of_another_cloud_and_no_run_at_all(verified: Any, run: Path, tmp_path: Path, rehearsal: Any) -> None:
    told = json.loads((run / "provision.json").read_text())
    (run / "provision.json").write_text(json.dumps({**told, "cloud": "vast"}))
    assert "with the inventory that the run began with" in verified()["bad"]["pods gone"]
    with pytest.raises(errors.UsageError, match="no folder of a run"):
        verified(run_dir=str(tmp_path))
    (run / "provision.json").write_text(json.dumps(told))
    for about in ({"cloud": "vast", "endpoint": rehearsal.url}, {"cloud": "runpod", "endpoint": "https://rest.example/v2"}, {"cloud": "runpod"}):
        (run / "run.json").write_text(json.dumps(about))
        bad = verified()["bad"]
        assert set(bad) == {"pods gone"} and f"runpod at {rehearsal.url} was asked" in bad["pods gone"], "another cloud knows nothing of these pods"


def test_a_ledger_that_never_knew_the_pods_proves_nothing(verified: Any, tmp_path: Path) -> None:
    for other in ({"state_dir": str(tmp_path / "another")}, {"account": "another"}):
        bad = verified(**other)["bad"]
        assert set(bad) == {"ledger"} and "has no lease of gone0, gone1" in bad["ledger"]
