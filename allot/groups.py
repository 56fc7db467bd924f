"""Groups: classes of channels with the same touches become one site of width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from allot.record import Record
from allot.site import Layer, Site, Touch


def channel_sites(record: Record, layers: Sequence[Layer]) -> list[Site]:
    """One site per set of classes that touch the same modules equally often."""
    starts = [name for name, event in record.order if event == "start"]
    when = {name: i for i, name in reversed(list(enumerate(starts)))}
    where: dict[int, Counter[tuple[str, str]]] = {}
    for at, ids in sorted(record.touches.items(), key=lambda x: (when[x[0][0]], x[0][1] == "in")):
        for c in ids.tolist():
            if c >= 0:
                where.setdefault(record.classes.find(c), Counter())[at] += 1
    groups: dict[tuple[object, ...], list[int]] = {}
    for root, touched in where.items():
        key = (tuple(sorted(touched.items())), record.classes.reason(root))
        groups.setdefault(key, []).append(root)
    known = [x.module for x in layers]
    sites = [_site(record, roots, list(where[roots[0]]), known) for roots in groups.values()]
    order = sorted(sites, key=lambda s: (when[s.touches[0].module], bool(s.fixed)))
    return _named(order)


def _site(
    record: Record, roots: Sequence[int], touched: Sequence[tuple[str, str]], layers: Sequence[str]
) -> Site:
    number = {root: i for i, root in enumerate(roots)}
    touches = []
    for module, role in touched:
        ids = record.touches[module, role].tolist()
        index = tuple(-1 if c < 0 else number.get(record.classes.find(c), -1) for c in ids)
        touches.append(Touch(module=module, role=role, index=index))
    names = {module for module, _ in touched}
    fixed = record.classes.reason(roots[0])
    return Site(
        name=f"{touches[0].module}.channels",
        kind="channels",
        shape=(len(roots),),
        touches=tuple(touches),
        reach=tuple(x for x in layers if x in names),
        fixed=fixed or ("there is only one channel" if len(roots) == 1 else ""),
    )


def _named(sites: Sequence[Site]) -> list[Site]:
    """Groups that begin at one module get numbers: "conv.channels", "conv.channels.2"."""
    seen: Counter[str] = Counter()
    out = []
    for s in sites:
        seen[s.name] += 1
        suffix = "" if seen[s.name] == 1 else f".{seen[s.name]}"
        out.append(
            Site(
                name=s.name + suffix,
                kind=s.kind,
                shape=s.shape,
                touches=s.touches,
                reach=s.reach,
                fixed=s.fixed,
            )
        )
    return out
