"""The HTML page of a comparison, as a jinja2 template.

Promises: no script, nothing loaded from elsewhere, readable at any width, in light and in dark.
"""

from __future__ import annotations

from typing import Final

PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ c.a.name }} and {{ c.b.name }} compared</title>
<style>
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --good: #1a6b34; --bad: #a3261b; }
@media (prefers-color-scheme: dark) { :root { --good: #6fd08c; --bad: #ff9d92; } }
body { font: 16px/1.5 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; margin: 0 auto; max-width: 75rem;
  padding: 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin-top: 1.5rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .2rem 1rem; } dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .wide:focus-visible { outline: 3px solid Highlight; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { background: var(--soft); } .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 14rem; }
.pair { border-top: 1px dashed var(--line); }
.verdict { border-left: .3rem solid var(--line); padding: .3rem .8rem; }
.A { color: var(--bad); font-weight: 600; } .B { color: var(--good); font-weight: 600; }
.id { font-family: ui-monospace, monospace; font-size: .85rem; }
</style>
</head>
<body>
<main>
<h1>{{ c.a.name }} (A) and {{ c.b.name }} (B)</h1>
<dl>
<dt>A</dt><dd>{{ c.a.name }}: {{ c.a.described }}</dd>
<dt>B</dt><dd>{{ c.b.name }}: {{ c.b.described }}</dd>
</dl>
{% for split in c.splits %}
<p class="verdict">{{ verdict(c, split) }}</p>
{% endfor %}
{% for note in c.notes %}
<p>Note: {{ note }}</p>
{% endfor %}

<h2>Params that differ</h2>
{% if c.params %}
<div class="wide" tabindex="0" role="region" aria-label="params that differ">
<table>
<thead><tr><th scope="col">param</th><th scope="col">A</th><th scope="col">B</th></tr></thead>
<tbody>
{% for each in c.params %}
<tr><td>{{ each.key }}</td><td>{{ value(each.a) }}</td><td>{{ value(each.b) }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% else %}
<p>None.</p>
{% endif %}

<h2>Rows that differ</h2>
{% macro text_of(text, row_id) -%}
{% if text is none %}{{ unknown_text(row_id) }}{% else %}{{ text.text }}{% if text.text_pair is not none %}<div
class="pair">{{ text.text_pair }}</div>{% endif %}{% endif %}
{%- endmacro %}
{% for each in c.rows %}
<p>{{ row_line(each) }}</p>
{% for side, rows in (("A", each.shown_a), ("B", each.shown_b)) if rows %}
<div class="wide" tabindex="0" role="region" aria-label="rows of {{ each.split }} only in {{ side }}">
<table>
<thead><tr><th scope="col">only in {{ side }}, first {{ rows | length }}</th><th scope="col">row_id</th></tr></thead>
<tbody>
{% for row in rows %}
<tr><td class="text">{{ text_of(row.text, row.row_id) }}</td><td class="id">{{ row.row_id }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
{% endfor %}

{% for split in c.splits %}
<h2>{{ split.split }}: {% if split.rows %}{{ "{:,}".format(split.rows) }} rows that both scored{% else %}as recorded{%
endif %}</h2>
<div class="wide" tabindex="0" role="region" aria-label="metrics of {{ split.split }}">
<table>
<thead><tr><th scope="col">metric</th>{% for head in ("A", "B", "B - A", "interval", "p", "better") %}
<th scope="col" class="n">{{ head }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, found in metrics(split) %}
<tr><td>{{ name }}</td>{% for cell in cells(found) %}<td class="n">{{ cell }}</td>{% endfor %}
<td class="n {{ better(name, found, c) }}">{{ better(name, found, c) }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% if split.flips is not none %}
{% for title, count, shown, weight in flip_lists(c, split.flips) %}
<h3>{{ "{:,}".format(count) }} {{ title }}{% if shown | length < count %}, first {{ shown | length }}{% endif %}</h3>
{% if shown %}
<div class="wide" tabindex="0" role="region" aria-label="{{ split.split }}: {{ title }}">
<table>
<thead><tr><th scope="col">text</th><th scope="col">label</th><th scope="col">A</th><th scope="col">B</th>
<th scope="col" class="n">{{ weight }}</th><th scope="col">row_id</th></tr></thead>
<tbody>
{% for flip in shown %}
<tr><td class="text">{{ text_of(flip.text, flip.row_id) }}</td><td>{{ flip.label }}</td><td>{{ flip.a }}</td>
<td>{{ flip.b }}</td><td class="n">{{ "%.3f" | format(flip.weight) }}</td><td class="id">{{ flip.row_id }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
{% else %}
<p>No prediction flipped.</p>
{% endfor %}
{% endif %}
{% endfor %}
<p>{{ method(c) }}.</p>
</main>
</body>
</html>
"""
