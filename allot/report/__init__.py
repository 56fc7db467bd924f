"""The report of a run, and the comparison of two, as one self-contained HTML page each."""

from __future__ import annotations

from allot.report.compare import compare as compare
from allot.report.data import ReportData as ReportData
from allot.report.data import read as read
from allot.report.page import render as render
