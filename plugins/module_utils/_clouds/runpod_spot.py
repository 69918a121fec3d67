# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Spot pods of RunPod, which only its GraphQL API rents, and what a wish names and only the account knows: templates and network volumes."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _model as model
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_account import RunPodAccount, Template, Volume
from ansible_collections.podcycle.gpu.plugins.module_utils._clouds.runpod_graphql import GraphQl, SpotWish
from ansible_collections.podcycle.gpu.plugins.module_utils._templates import named_template

KINDS = ("secure", "community")


def offers(graphql: GraphQl, gpu_count: int, cloud_type: str) -> list[model.Offer]:
    """What can be bid for now, at the lowest bid that RunPod takes."""
    found = []
    try:
        for kind in KINDS if cloud_type == "any" else (cloud_type,):
            for row in graphql.live_prices(gpu_count, cloud_type=kind).values():
                if row.spot_usd:
                    price = row.spot_usd * gpu_count
                    found.append(model.Offer("runpod", row.gpu, row.gpu_name, gpu_count, row.vram_gib, price, None, kind, True, row.stock))
    except (errors.Forbidden, errors.Unauthorized, errors.ProxyRefused) as err:
        err.hint = f"set spot to false; {err.hint}"
        raise
    return found


def create(graphql: GraphQl, wish: model.PodWish, stamp: model.Stamp, offer: model.Offer, env: dict[str, str], args: str) -> str:
    """The id of the new pod."""
    options = wish.options
    return graphql.rent_spot(
        SpotWish(
            name=str(stamp),
            gpu=offer.gpu,
            gpu_count=offer.gpu_count,
            bid_usd=offer.usd_per_hour / offer.gpu_count,
            image=wish.image,
            cloud_type=offer.cloud_type,
            disk_gib=wish.disk_gib,
            volume_gib=wish.volume_gib,
            volume_path=wish.volume_path,
            network_volume=options.get("network_volume"),
            ports=wish.ports,
            env={name: value for name, value in env.items() if name not in wish.secret_env},
            secret_env=wish.secret_env,
            data_center=offer.region,
            min_cuda_version=options.get("min_cuda_version"),
            template=options.get("template"),
            registry=options.get("registry"),
            args=args,
        )
    )


def price_again(graphql: GraphQl, pod: model.Pod, cap: Decimal | None) -> Decimal:
    """The lowest bid that RunPod takes now for all GPUs of a pod that was stopped or outbid; raises NoCapacity above the cap."""
    count = max(1, pod.gpu_count)
    live = graphql.live_prices(count, cloud_type=pod.cloud_type or "any").get(pod.gpu or "")
    if live is None or live.spot_usd is None:
        raise errors.NoCapacity(f"start spot pod {pod.id}: nobody can bid for {pod.gpu} now", hint="try again later, or rent another pod with another run_id")
    price = live.spot_usd * count
    if cap is not None and price > cap:
        raise errors.NoCapacity(
            f"start spot pod {pod.id}: the lowest bid is {model.usd(price)} $/h now, above max_usd_per_hour {model.usd(cap)}",
            hint="try again when it is cheaper, or with a higher max_usd_per_hour",
        )
    return price


def bid_again(graphql: GraphQl, pod: model.Pod, cap: Decimal | None) -> None:
    """Start a spot pod that was stopped or outbid, at the lowest bid that RunPod takes now."""
    count = max(1, pod.gpu_count)
    graphql.resume_spot(pod.id, price_again(graphql, pod, cap) / count, count)


def prepare(account: RunPodAccount, wish: model.PodWish) -> model.PodWish:
    """The wish with the ids behind names, what the template brings, and the data center of the volume; raises UsageError."""
    options = dict(wish.options)
    if options.get("template"):
        template = named_template(account, str(options["template"]))
        wish, options["template"] = _from_template(wish, template), template.id
    if options.get("network_volume"):
        volume = _volume(account, str(options["network_volume"]))
        if wish.regions and volume.data_center not in wish.regions:
            raise errors.UsageError(
                f"network volume {volume.name} lies in {volume.data_center}, and the pod is wished in {', '.join(wish.regions)}",
                hint=f"leave regions out, or set it to {volume.data_center}: a volume is mounted in its own data center only",
            )
        wish, options["network_volume"] = replace(wish, regions=(volume.data_center,)), volume.id
    return replace(wish, options=options)


def _from_template(wish: model.PodWish, template: Template) -> model.PodWish:
    """What the wish leaves open, as the template has it; without 22/tcp nothing reaches the pod."""
    if template.serverless:
        raise errors.UsageError(f"template {template.name} ({template.id}) is for serverless endpoints", hint="choose another: playbooks/templates.yml")
    ports = wish.ports or tuple(dict.fromkeys(("22/tcp", *template.ports)))
    # Which ports its image is to open, where the template says so itself.
    told = {name: value for name, value in template.env.items() if name == "PODCYCLE_PORTS"}
    return replace(wish, ports=ports, disk_gib=wish.disk_gib or template.disk_gib or 40, env={**told, **wish.env})


def _volume(account: RunPodAccount, wanted: str) -> Volume:
    rows = account.volumes()
    found = [row for row in rows if row.id == wanted] or [row for row in rows if row.name == wanted]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{row.name} ({row.id}, {row.data_center})" for row in (found or rows)) or "none"
    if found:
        raise errors.UsageError(f"{len(found)} network volumes are named {errors.clean_text(wanted, 80)!r}: {names}", hint="say which one by its id")
    raise errors.UsageError(f"there is no network volume {errors.clean_text(wanted, 80)!r}", hint=f"there are: {names}")
