"""Figures and pages made from a run's journal, and from several runs' results."""

from ppfl.report.page import write_report
from ppfl.report.pdf import print_pdf
from ppfl.report.reproduction import PAPER, Attack, Estimate, RowResult, write_reproduction
from ppfl.report.summary import Summary, summarise

__all__ = [
    "PAPER",
    "Attack",
    "Estimate",
    "RowResult",
    "Summary",
    "print_pdf",
    "summarise",
    "write_report",
    "write_reproduction",
]
