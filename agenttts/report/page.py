"""The page around a report's sections: its style sheet and its script.

The page needs no network. Figures are drawn in it as SVG. On screen the script draws them again,
with tooltips; on paper, and without the script, the SVG is shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from agenttts.report.figures.drawing import library


def page(title: str, body: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the whole page.

    Args:
        title: Its title.
        body: Its body, as HTML.
        figures: The specifications of its figures, by the id of their elements.
    """
    scripts = f"<script>{_SCRIPT}</script>"
    if figures:
        # In a script element nothing is escaped, and only "</script" and "<!--" would end it.
        specs = json.dumps(figures, ensure_ascii=False, separators=(",", ":"))
        specs = specs.replace("<", "\\u003c")
        code = library().replace("</script", "<\\/script").replace("<!--", "<\\!--")
        scripts = (
            f'<script type="application/json" id="specs">{specs}</script>'
            f'<script id="library">{code}</script>{scripts}'
        )
    return _PAGE.format(title=escape(title), style=_STYLE, body=body, scripts=scripts)


_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #60646c; --line: #d9dce1; --page: #ffffff; --band: #f4f5f7;
  --accent: #0072b2; --warn: #9a4a00; --warn-band: #fff4e5; }
@media screen and (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a0a6ae; --line: #3a3f45;
  --page: #16181b; --band: #1e2125; --accent: #56b4e9; --warn: #ffc078; --warn-band: #33261a; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Helvetica Neue", Arial, sans-serif; color: var(--text); background: var(--page);
  max-width: 1180px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.4rem; margin: 2.5rem 0 .5rem; border-top: 3px solid var(--text); padding-top: .75rem; }
h3 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h4 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { margin: .15rem 0; color: var(--soft); }
nav { margin: .5rem 0 1rem; font-size: .9rem; }
nav a { color: var(--accent); margin-right: 1rem; text-decoration: none; white-space: nowrap; }
code { font: .88em/1.4 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.answer { border: 1px solid var(--line); border-left: 5px solid var(--accent); border-radius: 6px;
  padding: .9rem 1.2rem; margin: 1rem 0; }
.answer .found { font-size: 1.5rem; font-weight: 650; color: var(--text); margin: 0 0 .3rem; }
.answer dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.1rem; margin: .8rem 0 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.1rem; margin: .5rem 0; }
.warning { color: var(--warn); background: var(--warn-band); border-radius: 6px; padding: .5rem .9rem; margin: .5rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93em; }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem .5rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
td { overflow-wrap: anywhere; }
.number { text-align: right; }
td.short { white-space: nowrap; }
.grids { display: flex; flex-wrap: wrap; gap: 0 2.5rem; } .grids > div { max-width: 100%; }
tbody tr:hover { background: var(--band); }
.sortable th { cursor: pointer; white-space: nowrap; }
.sortable th::after { content: " \\2195"; opacity: .35; }
.sortable th[aria-sort=ascending]::after { content: " \\2191"; opacity: 1; }
.sortable th[aria-sort=descending]::after { content: " \\2193"; opacity: 1; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }
figure { margin: .6rem 0 0; flex: 0 1 auto; max-width: 100%; width: 548px; break-inside: avoid; }
figure .drawn, figure .live { background: #fff; border-radius: 6px; padding: .5rem .8rem; }
figure svg { max-width: 100%; height: auto; display: block; overflow: visible; }
figure .live { display: none; }
figure.is-live .live { display: block; } figure.is-live .drawn { display: none; }
figcaption { color: var(--soft); font-size: .85rem; margin: .3rem .4rem 0; }
#vg-tooltip-element { font-family: inherit; }
@media print {
  @page { size: A4; margin: 15mm; }
  body { font-size: 10pt; margin: 0; max-width: none; padding: 0; }
  nav, summary { display: none; }
  figure { width: 48%; }
  figure.is-live .live { display: none; } figure.is-live .drawn { display: block; }
  h2, h3, h4 { break-after: avoid; } tr, .answer { break-inside: avoid; }
  thead { display: table-header-group; }
  .sortable th::after { content: ""; }
  .wide { overflow: visible; } table { font-size: 8pt; } th, td { padding: .15rem .35rem; }
}
"""

_SCRIPT = """
(() => {
  "use strict";
  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.sort) return Number(cell.dataset.sort);
    const text = cell.textContent.trim();
    const number = parseFloat(text.replace(/,/g, ""));
    return /^[-+]?[\\d.,]+(e[-+]?\\d+)?( |%|$)/.test(text) && !Number.isNaN(number) ? number : text;
  };
  const before = (a, b) => {
    if ((a === "-") !== (b === "-")) return a === "-" ? 1 : -1;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.tabIndex = 0;
      const sort = () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
        rows.sort((a, b) => (down && a[0] !== "-" && b[0] !== "-" ? before(b[0], a[0]) : before(a[0], b[0])));
        table.tBodies[0].append(...rows.map((pair) => pair[1]));
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  }
  const holder = document.getElementById("specs");
  if (!holder || typeof vegaEmbed === "undefined") return;
  const specs = JSON.parse(holder.textContent);
  const options = { mode: "vega-lite", renderer: "svg", actions: false };
  const draw = async () => {
    for (const figure of document.querySelectorAll("figure[id]")) {
      await vegaEmbed(figure.querySelector(".live"), specs[figure.id], options);
      figure.classList.add("is-live");
      await new Promise((next) => setTimeout(next)); // the page stays usable meanwhile
    }
  };
  draw();
})();
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - agenttts-hpc report</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
{scripts}
</body>
</html>
"""
