# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPU models and prices of one day: always with their date, refreshed from the API, and what goes on when the catalog is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _catalog, _offers
from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod import RunPod
from ansible_collections.podcycle.gpu.plugins.module_utils._engine import Engine
from ansible_collections.podcycle.gpu.plugins.module_utils._model import Offer
from support.harness import FULL

OFFERS = {
    "cloud": "runpod", "gpu": [], "gpu_count": 1, "min_vram_gib": 0, "max_usd_per_hour": None, "cloud_type": "any", "regions": [], "spot": False,
    "offline": True, "limit": 0,
}  # fmt: skip


def test_the_shipped_catalog_is_whole_and_dated() -> None:
    book = _catalog.shipped()
    assert (book.as_of, len(book.rows), len(book.gpu_types())) == ("2026-02-26", 44, 43), "the row named unknown is kept, and never offered"
    names = {row.gpu.name: row for row in book.rows}
    assert names["H100 SXM"].gpu.vram_gib == 80 and names["H100 SXM"].prices["community_spot"] == Decimal("1.50")
    assert {row.gpu.id for row in book.rows if row.prices} == set(_catalog.runpod_catalog.PRICES) and "unknown" in names


def test_offline_offers_bear_their_date(state: Any) -> None:
    def listed(**options: Any) -> dict[str, Any]:
        return _offers.list_offers({**OFFERS, "state_dir": str(state.path), **options})

    found = listed()
    prices = [row["usd_per_hour_sort"] for row in found["offers"]]
    assert found["as_of"] == "2026-02-26" and prices == sorted(prices) and {row["availability"] for row in found["offers"]} == {"unknown"}
    (spot,) = listed(gpu=["RTX 4090"], spot=True, cloud_type="community", gpu_count=2)["offers"]
    assert (spot["usd_per_hour"], spot["spot"], spot["cloud_type"]) == ("0.4000", True, "community")
    with pytest.raises(errors.UsageError, match="'H900' is not known"):
        listed(gpu=["H900"])


def test_a_refreshed_catalog_takes_its_place(state: Any, rehearsal: Any) -> None:
    account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(state.path)}
    path = _catalog.file_of(state, "runpod")
    foreseen = _catalog.refresh(account, check_mode=True)
    assert foreseen["changed"] and not path.exists() and foreseen["before_as_of"] == "2026-02-26"
    done = _catalog.refresh(account, check_mode=False)
    assert done["diff"] == foreseen["diff"] and _catalog.newest(state, "runpod").to_dict() == done["catalog"] and len(done["catalog"]["gpus"]) > 30
    assert not _catalog.refresh(account, check_mode=False)["changed"]
    body = json.loads(path.read_text())
    body["gpus"][0]["secure"] = "99"
    path.write_text(json.dumps(body))
    assert _catalog.refresh(account, check_mode=False)["changed"]
    for broken in ("{", '{"as_of": "today", "source": "", "gpus": []}', '{"as_of": "2026-01-01", "source": "", "gpus": [{"id": 1}]}'):
        path.write_text(broken)
        with pytest.raises(errors.StateError, match=r"cannot be read.*catalog\.yml"):
            _catalog.newest(state, "runpod")
    assert _catalog.refresh(account, check_mode=False)["changed"], "what cannot be read is written anew"


def test_a_refreshed_catalog_keeps_spot_prices(state: Any, rehearsal: Any) -> None:
    """Live ones where the key may ask for them, else the shipped ones with their date."""
    account = {"cloud": "runpod", "endpoint": rehearsal.url, "api_key": FULL, "state_dir": str(state.path)}

    def refreshed() -> tuple[dict[str, Any], str]:
        catalog = _catalog.refresh(account, check_mode=False)["catalog"]
        return next(row for row in catalog["gpus"] if row["name"] == "RTX 4090"), catalog["source"]

    row, source = refreshed()
    assert (row["secure_spot"], row["secure"], "spot" in source) == ("0.29", "0.59", False)
    rehearsal.fault("graphql_refused", params={"as": "401"}, times=None)
    row, source = refreshed()
    assert row["secure"] == "0.59" and "spot prices as of 2026-02-26" in source
    assert row["community_spot"] == str(next(one for one in _catalog.shipped().rows if one.gpu.id == row["id"]).prices["community_spot"])


def test_stock_breaks_a_tie(rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Offer("runpod", name, name, 1, 24, Decimal("0.5")) for name in ("A", "B", "C")]
    stock = {("A", "secure"): (None, "low"), ("B", "secure"): (None, "high"), ("C", "secure"): (None, "medium")}
    monkeypatch.setattr(RunPod, "offers", lambda self, count, **more: rows)
    monkeypatch.setattr(RunPod, "live_prices", lambda self, count, **more: stock)
    found = _offers.list_offers({**OFFERS, "offline": False, "endpoint": rehearsal.url, "api_key": FULL})["offers"]
    assert [(row["gpu"], row["stock"]) for row in found] == [("B", "high"), ("C", "medium"), ("A", "low")]


def refuse(cloud: Any) -> None:
    def refused(*args: Any, **more: Any) -> Any:
        raise errors.Forbidden("GET /catalog/gpus on runpod: HTTP 403")

    cloud.gpu_types = cloud.offers = refused


@pytest.mark.parametrize(
    ("gpus", "cap", "rented", "price"),
    [
        (("RTX 4090",), None, "NVIDIA GeForce RTX 4090", "0.59"),
        (("NVIDIA RTX A5000",), "1.20", "NVIDIA RTX A5000", "1.20"),
    ],
)
def test_a_refused_catalog_lets_an_explicit_gpu_go_on_with_a_warning(
    make_engine: Callable[..., Engine], make_wish: Callable[..., Any], rehearsal: Any, gpus: tuple[str, ...], cap: str | None, rented: str, price: str
) -> None:
    engine = make_engine()
    refuse(engine.cloud)
    wish = make_wish(gpus=gpus, max_usd_per_hour=cap and Decimal(cap))
    (foreseen,) = engine.rent(wish, check_mode=True)
    assert foreseen.after.gpu == rented and foreseen.after.usd_per_hour == Decimal(price)
    (slot,) = engine.rent(wish, check_mode=False)
    assert slot.error is None and slot.after.gpu == rented
    assert any("goes on unchecked, and prices are estimates as of 2026-02-26" in note for note in slot.notes)


@pytest.mark.parametrize(
    ("wish", "kind", "words"),
    [
        ({"gpus": ()}, errors.Forbidden, "HTTP 403"),
        ({"gpus": ("RTX 4090",), "spot": True}, errors.Forbidden, "HTTP 403"),
        ({"gpus": ("NVIDIA RTX A5000",), "max_usd_per_hour": None}, errors.UsageError, "price of NVIDIA RTX A5000 cannot be looked up.*max_usd_per_hour"),
        ({"gpus": ("RTX 4090",), "max_usd_per_hour": Decimal("0.10")}, errors.UsageError, "below every offer"),
    ],
)
def test_what_no_estimate_can_stand_in_for(
    make_engine: Callable[..., Engine], make_wish: Callable[..., Any], rehearsal: Any, wish: dict[str, Any], kind: type[Exception], words: str
) -> None:
    engine = make_engine()
    refuse(engine.cloud)
    with pytest.raises(kind, match=words):
        engine.rent(make_wish(**wish), check_mode=False)
    assert rehearsal.pods() == [] and engine.ledger.leases() == []
