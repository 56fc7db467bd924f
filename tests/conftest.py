"""One thread for all tests, here and in what they start: sums come out alike, nobody waits."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from allot.cli.entry import call
from tests import tiny

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run of the tiny task. stdout, stderr: what its command printed."""

    folder: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run for all tests that read one; they copy it before they change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call([*tiny.COMPRESS, "--json", "--out", str(folder)])
    assert code == 0, err.getvalue()
    return Finished(folder=folder, stdout=out.getvalue(), stderr=err.getvalue())
