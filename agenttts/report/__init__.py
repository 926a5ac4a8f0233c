"""Reports on one or many runs, as a table, an HTML page or a document.

>>> render(build_report([Path("results/demo")]), "html", Path("demo.html"))
"""

from agenttts.report.export import format_of, render, write_plain_page
from agenttts.report.summary import Report, RunReport, build_report

__all__ = ["Report", "RunReport", "build_report", "format_of", "render", "write_plain_page"]
