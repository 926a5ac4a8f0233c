"""The figures of a report, as Vega-Lite charts made with Altair.

Only `agenttts.report.render_html` and `agenttts.report.figures.files` import these modules, when
they are called: Altair takes half a second to import.
"""
