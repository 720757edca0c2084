"""Figures and pages made from a run's journal, and from several runs' results."""

from ppfl.report.comparison import COMPARISON, Comparison, read_comparison
from ppfl.report.estimate import Estimate
from ppfl.report.methods import CellResult, write_methods
from ppfl.report.page import leave_report, write_report
from ppfl.report.pdf import print_pdf
from ppfl.report.reproduction import PAPER, Attack, RowResult, write_reproduction
from ppfl.report.shortcuts import (
    CamShare,
    ShortcutsResult,
    SiteAuroc,
    SiteProbe,
    View,
    write_shortcuts,
)
from ppfl.report.summary import Summary, summarise

__all__ = [
    "COMPARISON",
    "PAPER",
    "Attack",
    "CamShare",
    "CellResult",
    "Comparison",
    "Estimate",
    "RowResult",
    "ShortcutsResult",
    "SiteAuroc",
    "SiteProbe",
    "Summary",
    "View",
    "leave_report",
    "print_pdf",
    "read_comparison",
    "summarise",
    "write_methods",
    "write_report",
    "write_reproduction",
    "write_shortcuts",
]
