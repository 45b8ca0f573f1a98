"""Saved results on one self-contained page; computes nothing."""

from eigenscope.report.page import PageFigure, Table, format_cell, write_page

__all__ = ["PageFigure", "Table", "format_cell", "write_page"]
