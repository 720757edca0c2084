"""Figures and pages made from a run's journal, and from several runs' results."""

from ppfl.report.comparison import COMPARISON, Comparison, read_comparison
from ppfl.report.estimate import Estimate
from ppfl.report.method_findings import method_findings
from ppfl.report.methods import CellFigures, CellResult, MethodRow, method_rows, write_methods
from ppfl.report.page import leave_report, write_report
from ppfl.report.pdf import print_pdf
from ppfl.report.reproduction import PAPER, Attack, RowResult, write_reproduction
from ppfl.report.shortcuts import (
    CamShare,
    ShortcutsResult,
    SiteAuroc,
    SiteProbe,
    SiteSensitivity,
    View,
    write_shortcuts,
)
from ppfl.report.summary import PHASES, Summary, study_of_run, summarise

__all__ = [
    "COMPARISON",
    "PAPER",
    "PHASES",
    "Attack",
    "CamShare",
    "CellFigures",
    "CellResult",
    "Comparison",
    "Estimate",
    "MethodRow",
    "RowResult",
    "ShortcutsResult",
    "SiteAuroc",
    "SiteProbe",
    "SiteSensitivity",
    "Summary",
    "View",
    "leave_report",
    "method_findings",
    "method_rows",
    "print_pdf",
    "read_comparison",
    "study_of_run",
    "summarise",
    "write_methods",
    "write_report",
    "write_reproduction",
    "write_shortcuts",
]
