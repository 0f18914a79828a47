"""``synthvlm convert``: a published checkpoint → a directory that transformers loads without remote code."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from synthvlm.cli import common

if TYPE_CHECKING:
    from synthvlm.plugins import Registration


@click.command("convert")
@click.argument("kind", required=False)
@click.argument("source", metavar="SRC", required=False)
@click.argument("target", metavar="DST", required=False)
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the conversion; repeatable.")
def command(kind: str | None, source: str | None, target: str | None, options: tuple[str, ...]) -> None:
    """Convert the checkpoint SRC, as its authors publish it, into the directory DST.

    KIND is the name of a model that has a conversion; alone, it shows what SRC is and what options there are. DST appears when it is
    complete; run again, a finished one is left as it is.
    """
    from synthvlm.options import build

    found = _found(kind)
    if kind is None or source is None:
        for name, registration in sorted(found.items()):
            _show(name, _conversion(registration))
        return
    if target is None:
        raise click.UsageError("Missing argument 'DST'.")
    if found[kind].missing:
        _lacks(found[kind])
    conversion = build(_conversion(found[kind]), common.key_values(options, "-o"), f"the conversion of {kind}")
    conversion.convert(source, target, click.echo)
    click.echo(f"{target} is ready: --model {kind} -o checkpoint={target}")


def _found(kind: str | None) -> dict[str, Registration]:
    """Return the models that have a conversion, or the one named ``kind``; raises PluginError if there is none."""
    from synthvlm.errors import PluginError
    from synthvlm.plugins import discover

    registry = discover()
    found = {r.name: r for r in registry.registrations.values() if getattr(r.cls, "conversion", None)}
    if kind is None:
        return found
    if kind not in found:
        broken = [b for b in registry.broken if b.name == kind]
        if broken:
            raise PluginError(f"plugin {broken[0].plugin} {broken[0].reason}")
        raise PluginError(f"there is no conversion of {kind!r}", f"there are: {', '.join(sorted(found)) or 'none'}")
    return {kind: found[kind]}


def _lacks(registration: Registration) -> None:
    from synthvlm.errors import PluginError

    extra = getattr(registration.cls, "extra", None)
    raise PluginError(
        f"the conversion of {registration.name} needs {', '.join(registration.missing)}",
        f"pip install 'synthvlm[{extra}]'" if extra else None,
    )


def _conversion(registration: Registration) -> Any:
    return registration.cls.conversion  # type: ignore[attr-defined]  # `_found` has looked


def _show(kind: str, conversion: Any) -> None:
    from synthvlm.options import describe

    click.echo(f"synthvlm convert {kind} SRC DST\n    {(conversion.__doc__ or '').strip().splitlines()[0]}")
    for info in describe(conversion):
        default = "…" if info.default is dataclasses.MISSING else info.default
        click.echo(f"    -o {info.name}={default}  ({info.type_name})  {info.help}")
