"""Figures and pages made from a run's journal, and from several runs' results."""

from ppfl.report.page import write_report
from ppfl.report.reproduction import PAPER, Attack, Estimate, RowResult, write_reproduction
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
    "PAPER",
    "Attack",
    "CamShare",
    "Estimate",
    "RowResult",
    "ShortcutsResult",
    "SiteAuroc",
    "SiteProbe",
    "Summary",
    "View",
    "summarise",
    "write_report",
    "write_reproduction",
    "write_shortcuts",
]
