"""Reports: tables, figures and the page, from saved records alone."""

from reverie.reports.page import write_report
from reverie.reports.records import RunRecord, find_runs, read_run, read_runs
from reverie.reports.tables import (
    COLUMNS,
    REGRESSION_COLUMNS,
    Group,
    OptionRow,
    SummaryRow,
    final_estimates,
    final_results,
    group_runs,
    option_differences,
    summary_rows,
)
from reverie.reports.words import Estimate

__all__ = [
    "COLUMNS",
    "REGRESSION_COLUMNS",
    "Estimate",
    "Group",
    "OptionRow",
    "RunRecord",
    "SummaryRow",
    "final_estimates",
    "final_results",
    "find_runs",
    "group_runs",
    "option_differences",
    "read_run",
    "read_runs",
    "summary_rows",
    "write_report",
]
