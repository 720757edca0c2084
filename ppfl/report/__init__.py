"""Figures and pages made from a run's journal."""

from ppfl.report.page import write_report
from ppfl.report.summary import Summary, summarise

__all__ = ["Summary", "summarise", "write_report"]
