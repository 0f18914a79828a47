"""``synthvlm plugins``: models and scorers, their options, and what is wrong with any."""

from __future__ import annotations

import click


@click.command("plugins")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List models and scorers; with NAME, that one's options."""
    from synthvlm.options import describe
    from synthvlm.plugins import KINDS, discover

    registry = discover()
    shown = [r for r in registry.registrations.values() if name is None or r.name == name]
    for kind in KINDS:
        found = sorted((r for r in shown if r.kind == kind), key=lambda r: r.name)
        if found:
            click.secho(f"{kind}s", bold=True)
        for r in found:
            summary = (r.cls.__doc__ or "").strip().splitlines()[0] if r.cls.__doc__ else ""
            click.echo(f"  {r.name:<18} {summary}")
            click.echo(f"  {'':<18} {r.distribution} {r.version} ({r.plugin})")
            if r.missing:
                extra = getattr(r.cls, "extra", None)
                click.echo(f"  {'':<18} missing: {', '.join(r.missing)}" + (f"; pip install 'synthvlm[{extra}]'" if extra else ""))
            if name is not None:
                for info in describe(r.cls):
                    identity = "runtime" if info.role == "runtime" else "identity"
                    click.echo(f"    -o {info.name}={info.default!s}  ({info.type_name}, {identity})  {info.help}")
                for preset, values in getattr(r.cls, "presets", {}).items():
                    click.echo(f"    --preset {preset}: " + ", ".join(f"{k}={v}" for k, v in values.items()))
    for b in registry.broken:
        if name in (None, b.name, b.plugin):
            click.secho(f"broken: {b.plugin} ({b.distribution}) {b.reason}", fg="red")
    if name is not None and not shown and not any(name in (b.name, b.plugin) for b in registry.broken):
        from synthvlm.errors import PluginError

        raise PluginError(f"there is no model or scorer {name!r}", "synthvlm plugins lists them")
    if name is None:
        click.echo("\nOptions of one: synthvlm plugins NAME")
