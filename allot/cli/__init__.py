"""The command line: nothing but arguments in, flow out."""

from __future__ import annotations

from allot.cli.entry import main as main
