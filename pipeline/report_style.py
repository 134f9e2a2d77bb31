"""How a report's page looks: one style sheet, for phones and desktops, in light and in dark.

Promises: no font, picture or colour from elsewhere; every text stands out from what is behind it by 4.5 to 1 or more.
"""

from __future__ import annotations

HEAT = 10  # shades of a cell, "h0" to "h9"


def style_sheet() -> str:
    """Return the style sheet."""
    light, dark = _heat("#ffffff", "#86b6ee"), _heat("#171c23", "#235a94")
    return _RULES + light + "@media (prefers-color-scheme: dark) {\n" + dark + "}\n"


def _heat(lowest: str, highest: str) -> str:
    """Return a rule for each shade between two colours."""
    ends = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in (lowest, highest)]
    rules = []
    for shade in range(HEAT):
        share = shade / (HEAT - 1)
        mixed = "".join(f"{round(low + share * (high - low)):02x}" for low, high in zip(*ends, strict=True))
        rules.append(f"td.h{shade} {{ background: #{mixed}; }}\n")
    return "".join(rules)


_RULES = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --text: #1b1f24; --muted: #56606b; --edge: #d8dde3; --soft: #eef1f4;
  --accent: #0b5cad; --focus: #0b5cad;
  --good: #116329; --good-back: #e2f4e7; --warn: #7d4e00; --warn-back: #fcf0d6; --bad: #a4121f; --bad-back: #fde8e8;
  --s0: #0b5cad; --s1: #c2410c; --s2: #15803d; --s3: #7c3aed; --s4: #8a6100; --s5: #be185d;
  --p1: #e4f5ea; --p2: #c4ecd3; --p3: #9ddfb6; --p4: #74cf98; --p: #15803d;
  --n1: #fdebde; --n2: #fbd5ba; --n3: #f8bb8f; --n4: #f4a066; --n: #b3400a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1318; --card: #171c23; --text: #e6e9ed; --muted: #a0abb7; --edge: #2c343e; --soft: #1f262f;
    --accent: #7cb8ff; --focus: #9fcbff;
    --good: #6fdd9a; --good-back: #12301f; --warn: #efc15c; --warn-back: #35290f; --bad: #ff9d9d; --bad-back: #3c1a1d;
    --s0: #7cb8ff; --s1: #fb9a5b; --s2: #5fd38d; --s3: #c4a5ff; --s4: #e3c04f; --s5: #f58ab8;
    --p1: #16301f; --p2: #1a4128; --p3: #1f5433; --p4: #24663f; --p: #5fd38d;
    --n1: #38230f; --n2: #4d2e12; --n3: #633a15; --n4: #7a4519; --n: #fb9a5b;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--text); font-size: 1rem; line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei",
    "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Hebrew", sans-serif;
}
a { color: var(--accent); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible, main:focus-visible {
  outline: 3px solid var(--focus); outline-offset: 2px; border-radius: 4px;
}
main:focus { outline: none; }
.skip {
  position: absolute; left: 1rem; top: -5rem; padding: .5rem 1rem; background: var(--card); border-radius: 6px;
  z-index: 2;
}
.skip:focus { top: 1rem; }
.top, .layout, .foot { max-width: 80rem; margin: 0 auto; padding: 0 1rem; }
.top { padding-top: 1.75rem; padding-bottom: .25rem; }
.top p { margin: .25rem 0 0; color: var(--muted); overflow-wrap: anywhere; }
h1 { margin: 0; font-size: clamp(1.5rem, 1.2rem + 1.5vw, 2.1rem); line-height: 1.2; letter-spacing: -.015em; }
h2 { margin: 0; font-size: 1.3rem; line-height: 1.3; letter-spacing: -.01em; }
h3 { margin: 1.25rem 0 .35rem; font-size: 1rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .35rem; margin: .75rem 0; padding: 0; list-style: none; }
nav a {
  display: block; padding: .3rem .65rem; border: 1px solid var(--edge); border-radius: 999px; background: var(--card);
  font-size: .875rem; text-decoration: none;
}
nav a:hover { border-color: var(--accent); }
main > section {
  margin: 1rem 0; padding: 1.1rem 1rem 1.25rem; background: var(--card); border: 1px solid var(--edge);
  border-radius: 12px;
}
.lead { margin: .15rem 0 .9rem; color: var(--muted); max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: .75rem 0 0; }
.tile { padding: .7rem .85rem; background: var(--card); border: 1px solid var(--edge); border-radius: 12px; }
.tile dt { color: var(--muted); font-size: .85rem; }
.tile dd { margin: 0; font-size: 1.5rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile dd.note { font-size: .8rem; font-weight: 400; color: var(--muted); }
figure { margin: 1rem 0 0; min-width: 0; }
figcaption { margin-bottom: .4rem; font-weight: 600; font-size: .95rem; }
.note { margin: .4rem 0 0; color: var(--muted); font-size: .85rem; max-width: 48rem; }
.text { margin: .75rem 0 0; max-width: 48rem; }
.text.good, .text.warn, .text.bad { padding: .55rem .8rem; border-radius: 8px; max-width: none; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); } .quiet { color: var(--muted); }
.text.good, .badge.good { background: var(--good-back); }
.text.warn, .badge.warn { background: var(--warn-back); }
.text.bad, .badge.bad { background: var(--bad-back); }
.scroll { overflow-x: auto; width: fit-content; max-width: 100%; border: 1px solid var(--edge); border-radius: 8px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .8rem; text-align: right; vertical-align: middle; border-bottom: 1px solid var(--edge); }
thead th { background: var(--soft); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
th.left, td.left { text-align: left; overflow-wrap: break-word; min-width: 4.5rem; max-width: 34rem; }
td { white-space: nowrap; }
td.left { white-space: normal; }
table.square td { min-width: 3.2rem; text-align: center; border: 1px solid var(--edge); }
table.square thead th:not(.left) { max-width: 9rem; overflow: hidden; text-overflow: ellipsis; text-align: center; }
.mini { vertical-align: middle; margin-inline-start: .5rem; flex: none; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 0 1.5rem; }
.plot { display: block; width: 100%; max-width: 34rem; height: auto; }
.plot text { fill: var(--muted); font-size: 12px; font-family: inherit; }
.plot .title { fill: var(--text); }
.grid { stroke: var(--edge); } .axis { stroke: var(--muted); } .guide { stroke: var(--muted); stroke-dasharray: 2 4; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.bar { fill: var(--s0); } .whisker { stroke: var(--text); stroke-width: 1.5; } .well { fill: var(--soft); }
.track { stroke: var(--edge); stroke-width: 2; } .range { stroke: var(--s0); stroke-width: 4; stroke-opacity: .45; }
.dot { fill: var(--s0); }
.line.s0 { stroke: var(--s0); } .mark.s0 { fill: var(--s0); }
.line.s1 { stroke: var(--s1); stroke-dasharray: 7 3; } .mark.s1 { fill: var(--s1); }
.line.s2 { stroke: var(--s2); stroke-dasharray: 2 3; } .mark.s2 { fill: var(--s2); }
.line.s3 { stroke: var(--s3); stroke-dasharray: 9 3 2 3; } .mark.s3 { fill: var(--s3); }
.line.s4 { stroke: var(--s4); stroke-dasharray: 4 4; } .mark.s4 { fill: var(--s4); }
.line.s5 { stroke: var(--s5); stroke-dasharray: 12 4; } .mark.s5 { fill: var(--s5); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .3rem 0 0; padding: 0; list-style: none;
  font-size: .85rem; }
.legend li { display: flex; align-items: center; gap: .4rem; overflow-wrap: anywhere; }
.legend svg { flex: none; }
.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1rem; margin: .5rem 0 0; }
.facts dt { color: var(--muted); } .facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .85em; overflow-wrap: anywhere; }
details { margin: .9rem 0 0; border: 1px solid var(--edge); border-radius: 8px; }
summary { padding: .55rem .8rem; cursor: pointer; font-weight: 600; font-size: .95rem; }
details > .inside { padding: 0 .8rem .9rem; }
.card { margin: .75rem 0 0; padding: .7rem .8rem .8rem; border: 1px solid var(--edge); border-radius: 8px; }
.badges { display: flex; flex-wrap: wrap; gap: .35rem; margin: 0; padding: 0; list-style: none; font-size: .8rem; }
.badge { padding: .08rem .5rem; border-radius: 999px; background: var(--soft); max-width: 100%;
  overflow-wrap: anywhere; }
.passages { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: .6rem 1.25rem; }
.from { margin: .55rem 0 .1rem; display: flex; flex-wrap: wrap; gap: .35rem; align-items: center; color: var(--muted);
  font-size: .8rem; overflow-wrap: anywhere; }
.passage { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.65; }
.say { margin: .45rem 0 0; font-size: .95rem; overflow-wrap: anywhere; }
.lines { margin: .5rem 0 0; font-size: .85rem; color: var(--muted); }
.lines p { margin: .1rem 0; overflow-wrap: anywhere; }
.p1, .p2, .p3, .p4, .n1, .n2, .n3, .n4 { color: var(--text); border-radius: 3px; }
.p1 { background: var(--p1); } .p2 { background: var(--p2); }
.p3 { background: var(--p3); } .p4 { background: var(--p4); }
.n1 { background: var(--n1); } .n2 { background: var(--n2); }
.n3 { background: var(--n3); } .n4 { background: var(--n4); }
.p2, .p3, .p4 { text-decoration: underline solid var(--p) 2px; text-underline-offset: 3px; }
.n2, .n3, .n4 { text-decoration: underline dotted var(--n) 2px; text-underline-offset: 3px; }
.unread { color: var(--muted); text-decoration: line-through; }
.foot { padding-top: .5rem; padding-bottom: 2.5rem; color: var(--muted); font-size: .85rem; }
@media (min-width: 68rem) {
  .layout { display: grid; grid-template-columns: 12.5rem minmax(0, 1fr); gap: 1.75rem; align-items: start; }
  nav { position: sticky; top: 1rem; }
  nav ul { flex-direction: column; gap: .1rem; margin: 1.1rem 0 0; }
  nav a { border: 0; background: none; border-radius: 6px; padding: .3rem .6rem; }
  nav a:hover { background: var(--card); }
  main > section { padding: 1.35rem 1.5rem 1.5rem; }
}
@media (max-width: 30rem) {
  td .mini { display: none; }
  th, td { padding: .38rem .55rem; }
}
@media print { nav, .skip { display: none; } main > section { border: 0; } }
"""
