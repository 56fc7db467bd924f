"""Card: README.md of an artefact, in the style of model cards on the Hugging Face hub.

A block of YAML that machines read, then what it is, how to run it, what was lost and how sure that
is, what every layer became, and how it was made; all of it from the job's own documents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from allot.job import say

FILE = "README.md"
_MOST_LAYERS = 200

Document = Mapping[str, Any]


def card(summary: Document, certificate: Document | None) -> str:
    """The card of what summary.json (with a chosen plan) and certificate.json say."""
    parts = [
        _front_matter(summary),
        f"# {summary['task']}, compressed by allot",
        _what(summary),
        "## How to run it",
        _run(summary),
        "## What was lost",
        _lost(summary, certificate),
        "## The plan",
        _plan(summary["layers"]),
        "## How it was made",
        _made(summary),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _front_matter(summary: Document) -> str:
    """YAML whose strings are JSON strings: no name can break out of its line."""
    found, metric = summary["compressed"], str(summary["metric"])
    said = [
        "library_name: allot",
        # of the original's, which allot cannot know
        "license: unknown",
        f"base_model: {_quoted(summary['source'])}",
        "base_model_relation: quantized",
        "tags:",
        *(f"- {t}" for t in ("allot", "compressed", "quantized", "onnx")),
        f"- {_quoted(summary['target'])}",
        "model-index:",
        f"- name: {_quoted(summary['task'])}",
        "  results:",
        f"  - task: {{name: {_quoted(summary['task'])}}}",
        '    dataset: {name: "the task\'s certify samples", type: held-out}',
        "    metrics:",
        f"    - {{name: {_quoted(metric)}, type: {_quoted(metric)}, value: {found['metric']:.6g}}}",
    ]
    return "\n".join(["---", *said, "---"])


def _quoted(text: Any) -> str:
    return json.dumps(str(text))


def _what(summary: Document) -> str:
    original, found = summary["original"], summary["compressed"]
    rows = [
        f"| {name} | {say(name, original[name])} | {say(name, found[name])} | "
        f"{100 * found[name] / original[name]:.1f} % |"
        for name in ("disk", "size", "bitops", "memory", "latency", "energy")
        if found.get(name) is not None and original.get(name)
    ]
    rows.append(
        f"| {summary['metric']} | {100 * original['metric']:.2f} % | "
        f"{100 * found['metric']:.2f} % | |"
        if 0 <= found["metric"] <= 1
        else f"| {summary['metric']} | {original['metric']:.4g} | {found['metric']:.4g} | |"
    )
    return "\n".join(["| | original | compressed | share |", "|---|--:|--:|--:|", *rows])


def _run(summary: Document) -> str:
    inputs = ", ".join(
        f"`{w['name']}`: {w['dtype']} {json.dumps(w['shape'])}" for w in summary["inputs"]
    )
    names = ", ".join(f"{json.dumps(w['name'])}: x" for w in summary["inputs"])
    code = [
        "```python",
        "import allot",
        "",
        'network = allot.load("FOLDER")  # every file is checked against its hash',
        f"outputs = network.run({{{names}}})",
        "```",
    ]
    before = f" Inputs are prepared so: {summary['preprocess']}." if summary["preprocess"] else ""
    made_for = f"It was measured in {summary['target']}"
    return "\n".join([*code, "", f"It takes {inputs}.{before} {made_for}{_workload(summary)}."])


def _workload(summary: Document) -> str:
    given = summary["workload"]
    return f", {given['batch']} samples a call, {given['threads']} thread" + (
        "" if given["threads"] == 1 else "s"
    )


def _lost(summary: Document, certificate: Document | None) -> str:
    found = summary["compressed"]
    low, high = found["divergence_interval"]
    said = (
        f"Divergence from the original on {found['n']} held-back samples: "
        f"{found['divergence']:.3g} nats (95 %: {low:.3g} to {high:.3g})."
    )
    if certificate is None:
        return f"Nothing is certified of this plan. {said}"
    return f"{certificate['text']}\n\n{said}"


def _plan(layers: Sequence[Document]) -> str:
    rows = [_layer(x) for x in layers[:_MOST_LAYERS]]
    more = len(layers) - len(rows)
    head = ["| layer | weight | input | outputs kept | bytes |", "|---|--:|--:|--:|--:|"]
    tail = ["", f"and {more} more layers: see `plan.json`."] if more else []
    return "\n".join([*head, *rows, *tail])


def _layer(x: Document) -> str:
    kept = f"{x['kept_out']} of {x['out']}"
    if x["bits"] is None:
        return f"| {x['name']} | left out | | {kept} | 0 |"
    weight, entering = ("float" if b == 32 else f"{b:g} bits" for b in (x["bits"], x["activation"]))
    return f"| {x['name']} | {weight} | {entering} | {kept} | {x['bytes']} |"


def _made(summary: Document) -> str:
    asked = ", ".join(f"{k} at most {v['asked']}" for k, v in summary["budgets"].items())
    libraries = ", ".join(f"{k} {v}" for k, v in summary["versions"].items())
    where = summary["environment"]
    return (
        f"By allot {summary['allot']} on {summary['created']} from `{summary['source']}`, seed "
        f"{summary['seed']}; axes: {', '.join(summary['axes'])}; budgets: {asked or 'none'}; at "
        f"most {summary['max_drop']:g} points to be lost; recovery: {summary['recovery']}.\n\n"
        f"Processor: {where['processor']} ({where['system']}). Libraries: {libraries}.\n\n"
        "`artefact.json` holds a hash of every file here; `front.json` the other plans that were "
        "measured; `report.html` shows all of it."
    )
