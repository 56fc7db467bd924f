"""Does the main job reach its size and its latency on a real network, within 15 minutes?

ResNet-20 on CIFAR-10 images (weights tuned to them), size <= 12 % and latency <= 45 % at batch 32
on one thread, in one run.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import allot
from allot.search import Effort
from allot.sweep import outputs
from allot.target import Workload
from allot.task import Data, Task
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.tasks import resnet20

BUDGETS = ("size=12%", "latency=45%")
QUICK = Effort(levels=6, rounds=1, batch=2)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """The figures of one run with both budgets."""
    task = resnet20("resnet20_jpeg", seed=seed)
    if quick:
        few, some = task.search.subset(slice(0, 200)), task.certify.subset(slice(0, 1000))
        task = replace(task, search=few, certify=some)
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        outcome = allot.compress(
            task,
            budgets=BUDGETS,
            max_drop=3.0 if quick else 1.5,
            workload=Workload(batch=32, threads=1),
            out=Path(scratch) / "run",
            seed=seed,
            effort=QUICK if quick else Effort(),
        )
        seconds = time.perf_counter() - start
        hits = _hits(task, Path(scratch) / "run")
    summary = outcome.summary
    here = summary["runtimes"][summary["target"]]
    drops = 100 * (hits[0] - hits[1])
    drop, interval = float(drops.mean()), mean_interval(drops)
    n, seeds = len(drops), [seed]
    certificate = outcome.statement
    assert certificate is not None
    share = 100 * summary["compressed"]["size"] / summary["original"]["size"]
    stages = {k: round(v, 1) for k, v in summary["seconds"].items()}
    return {
        "ResNet-20 packed bytes, % of the folded float network": at_most(
            share, 12.0, n=1, seeds=seeds
        ),
        "ResNet-20 size <= 12 %: top-1 points below the original on test images": at_most(
            drop, 0.5, n=n, seeds=seeds, interval=interval
        ),
        "ResNet-20 size <= 12 %: certified drop, points at 95 %": at_most(
            certificate.bound, 1.5, n=certificate.n, seeds=seeds, claim=certificate.claim
        ),
        "ResNet-20 latency, % of float32 in OpenVINO, batch 32, one thread": at_most(
            100 * here["ratio"], 45.0, n=here["n"], seeds=seeds,
            interval=tuple(100 * v for v in here["ratio_interval"]),
        ),
        "ResNet-20 latency <= 45 %: top-1 points below the original in the runtime": at_most(
            drop, 0.7, n=n, seeds=seeds, interval=interval
        ),
        "ResNet-20 whole job, minutes": at_most(
            seconds / 60, 15.0, n=1, seeds=seeds, stages=stages
        ),
    }  # fmt: skip


def _hits(task: Task, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Original and exported file in its runtime, right or wrong on all test images: [n], [n]."""
    assert isinstance(task.search.inputs, torch.Tensor)
    assert isinstance(task.certify.inputs, torch.Tensor)
    assert task.search.labels is not None and task.certify.labels is not None
    images = torch.cat([task.search.inputs, task.certify.inputs])
    labels = torch.cat([task.search.labels, task.certify.labels]).numpy()
    original = outputs(task, task.model.eval(), Data(inputs=images), batch=250).argmax(1).numpy()
    artefact = allot.load(folder)
    found = [artefact.run({"input": b.numpy()})["output"].argmax(1) for b in images.split(32)]
    return (original == labels).astype(float), (np.concatenate(found) == labels).astype(float)
