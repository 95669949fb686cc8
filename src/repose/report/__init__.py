"""Results for people: one HTML file about many crystals, and a figure of one."""

from repose.report.page import Report, write_report

__all__ = ["Report", "write_report"]
