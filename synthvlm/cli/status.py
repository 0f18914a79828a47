"""``synthvlm status``: what a run has and what it lacks."""

from __future__ import annotations

import json

import click

from synthvlm.cli import common


@click.command("status")
@common.run_argument
@click.option("--verify", is_flag=True, help="Read every byte and set damaged parts aside; their rows are made again by the next run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(run_dir: str, verify: bool, as_json: bool) -> None:
    """Show what RUN has and what it lacks."""
    from synthvlm.pipeline import Run

    run = Run.open(run_dir)
    damaged = run.repair(thorough=True) if verify else run.check()
    stages = {name: run.tally(run.stage(name)) for name in run.stage_names()}
    selections = {n.removesuffix(".json"): run.store.read_json(f"selections/{n}") or {} for n in run.store.list("selections", ".json")}
    if as_json:
        click.echo(
            json.dumps(
                {
                    "run": run.root,
                    "samples": run.sample_count(),
                    "stages": stages,
                    "damaged": damaged,
                    "selections": {n: s["selected"] for n, s in selections.items()},
                },
                indent=2,
            )
        )
        return
    what = "images" if any(s.get("listing") or s["reader"].get("images") for s in run.record["sources"]) else "captions"
    click.echo(f"{run.root}: {run.sample_count():,} {what}, seed {run.seed}")
    for line in damaged:
        click.echo(f"  {line}")
    for name, t in stages.items():
        missing = t["wanted"] - t["made"] - t["failed"]
        share = t["made"] / t["wanted"] if t["wanted"] else 1.0
        click.echo(
            f"  {name}: {t['made']:,} of {t['wanted']:,} ({share:.0%})"
            + (f", {missing:,} to make" if missing else "")
            + (f", {t['failed']:,} failed" if t["failed"] else "")
        )
        for perspective, n in t.get("perspectives", {}).items():
            more = "".join(f", {n[k]:,} {what}" for k, what in (("failed", "failed"), ("cut", "cut off by the token limit")) if n[k])
            click.echo(f"    {perspective}: {n['made']:,} made{more}")
        for f in t["failures"]:
            click.echo(f"    {f['rows']:,} × {f['class']}: {f['example']}")
    for name in run.store.list("curation", ".json"):
        c = run.store.read_json(f"curation/{name}") or {}
        if not name.endswith(".pool.json"):
            click.echo(f"  curation {name.removesuffix('.json')}: keeps {c['kept']:,} of {c['captions']:,} captions")
    for name, s in selections.items():
        click.echo(f"  selection {name}: {s['selected']:,} of {s['captions']:,} captions, top {s['top']}")
    if verify and not damaged:
        click.echo("  every part is as it was written")
