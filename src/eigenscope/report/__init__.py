"""Saved results on self-contained pages; computes nothing."""

from eigenscope.report.interactive import write_report
from eigenscope.report.page import PageFigure, Table, format_cell, write_page

__all__ = ["PageFigure", "Table", "format_cell", "write_page", "write_report"]
