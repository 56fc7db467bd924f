"""Points: verbs on a finished run that need its task again: another point, a proof, a check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from allot import certify as proofs
from allot import reopen, runtimes
from allot.artefact import add_documents, open_artefact
from allot.cli import arguments as a
from allot.cli import arrays, noisy, stream, words
from allot.cli.tables import result
from allot.errors import InputError, NotCertified
from allot.faults import Fault
from allot.files import read_json
from allot.ledger import sample_digests
from allot.noise.measured import Noise
from allot.recipes import preparing
from allot.run import Run
from allot.task import Data
from allot.verify import Parity, require


def reopened(folder: Path, task: str) -> Run:
    """A finished run, made ready to build its plans; stages are shown as they go."""
    job = words.job_of(folder)
    found = words.task_of(job, task)
    target, axes = runtimes.by_name(job.target), words.axes(",".join(job.axes))
    with stream.progress() as report:
        return reopen.reopen(
            folder, found, axes=axes, target=target, prepare=preparing(job.prepare),
            report=report, tell=stream.say,
        )  # fmt: skip


def apply(
    folder: a.Folder,
    point: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Which point of the front, from 0 (closest to the "
            "original); report.html numbers them.",
            show_default=False,
        ),
    ],
    out: a.Out = None,
    uncertified: Annotated[
        bool,
        typer.Option("--uncertified", help="Also take a point that the job did not certify."),
    ] = False,
    task: a.TaskAgain = "",
    json: a.Json = False,
) -> None:
    """Take another point of a run's front, without searching again.

    The point's certificate is what the job stated of it; the certify samples are not used a
    second time. A point that was not certified ends with exit code 3, or is written and marked
    so with --uncertified.
    """
    there = out or folder.with_name(f"{folder.resolve().name}-point{point}")
    words.job_of(folder)
    reopen.point_of(folder, point)
    with stream.diverted():
        run = reopened(folder, task)
        summary = reopen.take_point(run, point, out=there, uncertified=uncertified)
    if json:
        stream.out_json(summary)
        return
    stream.out(result(summary))
    stream.out("")
    stream.out(_stated(there) if summary["certified"] else "NOT CERTIFIED")
    stream.out(f"report: {there / 'report.html'}")


def _stated(folder: Path) -> str:
    if not (folder / "certificate.json").exists():
        raise InputError(f"{folder} holds no certificate: no plan in it was certified")
    return proofs.load(read_json(folder / "certificate.json")).text


def certify(
    folder: a.Folder,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Fresh samples to prove something with: inputs (or one array per input name) "
            "and labels.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Points that may be lost; as in the run where it is not given.",
            show_default=False,
        ),
    ] = None,
    task: a.TaskAgain = "",
    json: a.Json = False,
) -> None:
    """Show what is proven of a compressed network, or prove it on fresh data.

    Fresh data must come from where the network will be used and must not have been seen by any
    step of the run; samples that were are refused. Each set proves something once.
    """
    job = words.job_of(folder)
    if data is None:
        text = _stated(folder)
        if json:
            stream.out_json(read_json(folder / "certificate.json"))
        else:
            stream.out(text)
        return
    artefact = open_artefact(folder)
    samples = arrays.data(data, names=[x["name"] for x in artefact.summary["inputs"]])
    allowed = float(artefact.summary["max_drop"]) if max_drop is None else max_drop
    with stream.diverted():
        found = words.task_of(job, task)
        statement = reopen.certify_again(artefact, found, samples, max_drop=allowed, name=data.name)
    name = f"certificate-{sample_digests(samples.inputs)[0][:8]}.json"
    add_documents(folder, {name: statement.dump()})
    if json:
        stream.out_json(statement.dump())
    else:
        stream.out(statement.text)
        stream.out(f"written: {folder / name}")
    if not statement.certified:
        raise NotCertified(
            f"a drop of at most {allowed:g} points is not proven: the bound is "
            f"{statement.bound:.2f} points on {statement.n} samples"
        )


def verify(
    folder: a.Folder,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Inputs to compare on; the calibration inputs where none are given.",
            show_default=False,
        ),
    ] = None,
    noise: Annotated[
        bool,
        typer.Option(
            "--noise",
            help="Also run it under the mismatches between training and deployment that the task "
            "can meet, each alone and in pairs; written into the folder and its report.",
        ),
    ] = False,
    task: a.TaskAgain = "",
    json: a.Json = False,
) -> None:
    """Check that a compressed network is whole and computes what its plan says.

    Every file is compared with its hash; the network is loaded in the runtime and its outputs
    are compared with the plan simulated anew in PyTorch. The exit code is 1 where they differ;
    then the first layer that does is named, and the likely cause.
    """
    artefact = open_artefact(folder)
    given: Data | None = None
    if inputs is not None:
        given = arrays.data(inputs, names=[x["name"] for x in artefact.summary["inputs"]])
    with stream.diverted():
        run = reopened(folder, task)
        found = reopen.check_again(run, artefact, inputs=None if given is None else given.inputs)
        said = None if found.holds else reopen.fault_again(run, artefact)
        mismatches = noisy.tried(run, artefact) if noise and said is None else None
    if json:
        stream.out_json(_as_data(found, said, mismatches))
    if said is not None:
        require(found, where=said.layer, why=said.text)
    if json:
        return
    stream.out(
        f"{folder} is whole and computes what its plan says: on {found.n} samples "
        f"{found.mean_kl:.2g} nats from the simulation (at most {found.most_nat:g}), the "
        f"same answer in {found.argmax_agreement:.2%}"
    )
    if mismatches is not None:
        stream.out(noisy.table(mismatches))


def _as_data(found: Parity, said: Fault | None, mismatches: Noise | None) -> dict[str, Any]:
    why = {} if said is None else {"first": said.layer, "cause": said.text}
    noise = {} if mismatches is None else {"noise": mismatches.dump()}
    return {"holds": found.holds, **vars(found), **why, **noise}
