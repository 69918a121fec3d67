# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""report.html: one self-contained page; every word from outside is escaped."""

from __future__ import annotations

from html import escape

from ansible_collections.podcycle.gpu.plugins.module_utils._model import usd
from ansible_collections.podcycle.gpu.plugins.module_utils._report import Summary, told_stage, validation_figures

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d9dee7; --card: #fff; --page: #f4f6f9; --good: #1f8a56;
 --bad: #c0392b; --bar: #3b6fd4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf2; --soft: #98a2b3; --line: #2c3443; --card: #171d29; --page: #0f141d; --bar: #6f9bf0;
--good: #4cc38a;
 --bad: #f07167; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 22px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 12px; }
p { margin: 0 0 8px; }
.soft { color: var(--soft); }
.badge { display: inline-block; padding: 1px 10px; border-radius: 999px; color: #fff; font-size: 13px; background: var(--good); margin-right: 6px; }
.badge.bad { background: var(--bad); }
.badge.plain { background: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; margin-top: 16px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 12px; }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 500; }
.bars { display: grid; grid-template-columns: 90px 1fr 80px; gap: 6px 12px; align-items: center; }
.bar { height: 14px; border-radius: 4px; background: var(--bar); min-width: 2px; }
.bar.failed { background: var(--bad); }
.num { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: var(--page); padding: 10px; border-radius: 6px; overflow: auto; font-size: 13px; }
svg { width: 100%; height: auto; display: block; }
"""


def page(summary: Summary) -> str:
    """The whole page."""
    state = "done" if summary.ok else "failed"
    badges = f'<span class="badge{"" if summary.ok else " bad"}">{state}</span>' + (
        '<span class="badge plain">rehearsal: nothing was paid</span>' if summary.rehearsal else ""
    )
    parts = [_tiles(summary), _problems(summary), _stages(summary), _training(summary), _validation(summary), _pods(summary), _logs(summary)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>Run {escape(summary.run_id)}</title>'
        f"<style>{_STYLE}</style></head><body><main><h1>Run {escape(summary.run_id)}</h1><p>{badges}</p>"
        f'<p class="soft">Billing: {escape(summary.billing)}</p>{"".join(parts)}</main></body></html>\n'
    )


def _tiles(summary: Summary) -> str:
    total = sum(seconds for _name, _status, seconds in summary.stages)
    tiles = [(f"{total:.0f} s", "all stages"), (f"{usd(summary.cost_usd) or 'unknown'} $", "would have cost" if summary.rehearsal else "cost")]
    tiles.append((f"{summary.worst_case_usd or 'unknown'} $", "at worst, by the lease"))
    tiles += [(value, label) for label, value in validation_figures(summary.validation)[:3]]
    return (
        '<section><div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for value, label in tiles)
        + "</div></section>"
    )


def _problems(summary: Summary) -> str:
    rows = [f"<tr><td>{escape(trouble.stage)}</td><td>{escape(trouble.host)}</td><td>{escape(trouble.cause)}</td></tr>" for trouble in summary.troubles]
    rows += [f"<tr><td>billing</td><td></td><td>{escape(name)}</td></tr>" for name in summary.still_open]
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in summary.notes)
    if not rows and not notes:
        return ""
    table = (
        f"<table><tr><th>stage</th><th>pod</th><th>cause</th></tr>{''.join(rows)}</table><p>Next: <code>{escape(summary.next_command)}</code></p>"
        if rows
        else ""
    )
    return f"<section><h2>{'Problems' if rows else 'Notes'}</h2>{table}{notes}</section>"


def _stages(summary: Summary) -> str:
    most = max((seconds for _name, _status, seconds in summary.stages), default=1.0) or 1.0
    rows = "".join(
        f'<span>{escape(name)}</span><div class="bar{"" if status == "ok" else " failed"}" style="width:{100 * seconds / most:.1f}%"></div>'
        f'<span class="num">{escape(told_stage(status, seconds))}</span>'
        for name, status, seconds in summary.stages
    )
    return f'<section><h2>Stages</h2><div class="bars">{rows}</div></section>'


def _points(summary: Summary, *kinds: str) -> list[tuple[int, float]]:
    """Steps and losses that can be drawn: the file comes from the pod."""
    rows = [row for row in summary.training if row.get("kind") in kinds and isinstance(row.get("loss"), (int, float))]
    return [(row["step"], float(row["loss"])) for row in rows if abs(row["loss"]) < 1e6]


def _training(summary: Summary) -> str:
    losses, checks = _points(summary, "train"), _points(summary, "eval", "final")
    if len(losses) < 2:
        return ""
    width, height, pad = 900, 240, 40
    top, low = max(value for _step, value in losses + checks), min(value for _step, value in losses + checks)
    last = max(1, *(step for step, _value in losses + checks))

    def at(point: tuple[int, float]) -> str:
        return f"{pad + (width - 2 * pad) * point[0] / last:.1f},{pad / 2 + (height - 1.5 * pad) * (top - point[1]) / max(top - low, 1e-9):.1f}"

    ticks = ""
    for value in (low + (top - low) * share for share in (0, 0.5, 1)):
        y = at((0, value)).split(",")[1]
        ticks += f'<text x="4" y="{y}" font-size="12" fill="var(--soft)">{value:.2f}</text>'
        ticks += f'<line x1="{pad}" x2="{width - pad}" y1="{y}" y2="{y}" stroke="var(--line)"/>'
    dots = "".join('<circle cx="{}" cy="{}" r="4" fill="var(--good)"/>'.format(*at(point).split(",")) for point in checks)
    line = " ".join(at(point) for point in losses)
    steps = f'<text x="{width - pad}" y="{height - 8}" font-size="12" text-anchor="end" fill="var(--soft)">step {last}</text>'
    return (
        f'<section><h2>Training loss <span class="soft">(dots: validation)</span></h2><svg viewBox="0 0 {width} {height}" role="img">'
        f'{ticks}<polyline points="{line}" fill="none" stroke="var(--bar)" stroke-width="2"/>{dots}{steps}</svg></section>'
    )


def _validation(summary: Summary) -> str:
    figures = validation_figures(summary.validation)
    if not summary.validation:
        return ""
    rows = "".join(f"<tr><td>{escape(label)}</td><td>{escape(value)}</td></tr>" for label, value in figures)
    checks = summary.validation.get("checks")
    for check in checks if isinstance(checks, list) else ():
        if isinstance(check, dict):
            told = f"{'ok' if check.get('ok') else 'FAILED'}: {str(check.get('detail') or '')[:300]}"
            rows += f"<tr><td>{escape(str(check.get('name', '')))}</td><td>{escape(told)}</td></tr>"
    return f"<section><h2>Validation on the controller: {'ok' if summary.validation.get('ok') else 'failed'}</h2><table>{rows}</table></section>"


def _pods(summary: Summary) -> str:
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(str(value if value is not None else ''))}</td>"
            for value in (
                pod.get("id"),
                f"{pod.get('gpu_count')} x {pod.get('gpu')}",
                pod.get("cloud_type"),
                pod.get("usd_per_hour"),
                pod.get("cost_usd"),
                pod.get("deadline"),
            )
        )
        + "</tr>"
        for pod in summary.pods
    )
    head = "".join(f"<th>{name}</th>" for name in ("pod", "GPU", "type", "$/h", "cost $", "lease until"))
    return f"<section><h2>Pods</h2><table><tr>{head}</tr>{rows}</table></section>" if rows else ""


def _logs(summary: Summary) -> str:
    return "".join(
        f"<section><h2>Last log lines of {escape(host)}</h2><pre>{escape(chr(10).join(str(line) for line in tail))}</pre></section>"
        for host, tail in summary.log_tails
    )
