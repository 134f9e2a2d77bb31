"""A report's page as HTML: one file that asks for nothing and runs nothing.

Promises: every value is escaped, whatever stands in it; the page's own policy forbids scripts, frames, forms and any
request; equal pages give equal bytes; users' texts keep their own direction and name no language.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pipeline.report_blocks import Page
from pipeline.report_style import style_sheet

# What no reader sees but a browser would act on: each as the symbol that Unicode has for it.
_CONTROLS: Final[dict[int, int | str]] = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_CONTROLS.update({127: 0x2421, 13: "\n"})


def render(page: Page) -> str:
    """Return the page as one HTML document."""
    style = style_sheet()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return _TEMPLATE.render(page=page, style=Markup(style), policy=policy)


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").translate(_CONTROLS)


_ENVIRONMENT: Final = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters["plain"] = _plain
_TEMPLATE: Final = _ENVIRONMENT.from_string(
    """\
{%- macro words(cell) -%}
{% if cell.user %}<bdi lang="" dir="auto">{{ cell.text | plain }}</bdi>{% else %}{{ cell.text | plain }}{% endif %}
{%- endmacro -%}

{%- macro badges(cells) -%}
<ul class="badges">
{% for cell in cells %}
<li class="badge {{ cell.tone }}">{{ words(cell) }}</li>
{% endfor %}
</ul>
{%- endmacro -%}

{%- macro table(block) -%}
<figure>
<figcaption>{{ block.caption }}</figcaption>
<div class="scroll" role="region" aria-label="{{ block.caption }}" tabindex="0">
<table{% if block.square %} class="square"{% endif %}>
<thead><tr>
{% for column in block.columns %}
<th scope="col"{% if loop.index0 < block.left %} class="left"{% endif %}>{{ words(column) }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in block.rows %}
<tr>
{% for cell in row %}
{% set left = "left" if loop.index0 < block.left else "" %}
{% if loop.first %}
<th scope="row" class="{{ left }} {{ cell.tone }}">{{ words(cell) }}{% if cell.chart %}{{ cell.chart }}{% endif %}</th>
{% else %}
<td class="{{ left }} {{ cell.tone }}">{{ words(cell) }}{% if cell.chart %}{{ cell.chart }}{% endif %}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% if block.note %}<p class="note">{{ block.note }}</p>{% endif %}
</figure>
{%- endmacro -%}

{%- macro chart(block) -%}
<figure>
<figcaption>{{ block.caption }}</figcaption>
{{ block.picture }}
{% if block.series %}
<ul class="legend">
{% for name in block.series %}
<li><svg width="26" height="10" viewBox="0 0 26 10" aria-hidden="true">
<line class="line s{{ loop.index0 }}" x1="0" y1="5" x2="26" y2="5"/></svg>{{ words(name) }}</li>
{% endfor %}
</ul>
{% endif %}
{% if block.note %}<p class="note">{{ block.note }}</p>{% endif %}
</figure>
{%- endmacro -%}

{%- macro card(block) -%}
<article class="card">
{{ badges(block.badges) }}
{% if block.said %}<p class="say">{{ block.said | plain }}</p>{% endif %}
<div class="passages">
{% for passage in block.passages %}
<div>
<p class="from"><span>{{ passage.name | plain }}</span>
{% for cell in passage.badges %}<span class="badge {{ cell.tone }}">{{ words(cell) }}</span>{% endfor %}</p>
<p class="passage" lang="" dir="auto">
{%- for span in passage.spans -%}
{%- if span.tone %}<span class="{{ span.tone }}">{{ span.text | plain }}</span>{% else %}{{ span.text | plain }}
{%- endif -%}
{%- endfor -%}
</p>
</div>
{% endfor %}
</div>
{% if block.lines %}
<div class="lines">
{% for line in block.lines %}
<p>{{ words(line) }}</p>
{% endfor %}
</div>
{% endif %}
</article>
{%- endmacro -%}

{%- macro show(block) -%}
{% if block.kind == "table" %}
{{ table(block) }}
{% elif block.kind == "chart" %}
{{ chart(block) }}
{% elif block.kind == "charts" %}
<div class="charts">
{% for each in block.charts %}
{{ chart(each) }}
{% endfor %}
</div>
{% elif block.kind == "facts" %}
{% if block.title %}<h3>{{ block.title }}</h3>{% endif %}
<dl class="facts">
{% for name, value in block.pairs %}
<dt>{{ name | plain }}</dt><dd>
{%- if block.code %}<code>{{ value | plain }}</code>{% else %}<bdi>{{ value | plain }}</bdi>{% endif -%}
</dd>
{% endfor %}
</dl>
{% elif block.kind == "text" %}
<p class="text {{ block.tone }}">{{ block.text | plain }}</p>
{% elif block.kind == "card" %}
{{ card(block) }}
{% else %}
<details{% if block.open %} open{% endif %}>
<summary>{{ block.summary | plain }}</summary>
<div class="inside">
{% for each in block.blocks %}
{{ show(each) }}
{% endfor %}
</div>
</details>
{% endif %}
{%- endmacro -%}

<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ page.title | plain }}</title>
<link rel="icon" href="data:,">
<style>{{ style }}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the report</a>
<header class="top">
<h1>{{ page.title | plain }}</h1>
<p><bdi>{{ page.subtitle | plain }}</bdi></p>
</header>
<div class="layout">
<nav aria-label="Contents">
<ul>
{% for section in page.sections %}
<li><a href="#{{ section.anchor }}">{{ section.title }}</a></li>
{% endfor %}
</ul>
</nav>
<main id="main" tabindex="-1">
<dl class="tiles">
{% for tile in page.tiles %}
<div class="tile"><dt>{{ tile.name }}</dt><dd>{{ tile.value }}</dd>
{%- if tile.note %}<dd class="note">{{ tile.note }}</dd>{% endif %}</div>
{% endfor %}
</dl>
{% for section in page.sections %}
<section id="{{ section.anchor }}" aria-labelledby="{{ section.anchor }}-title">
<h2 id="{{ section.anchor }}-title">{{ section.title }}</h2>
<p class="lead">{{ section.lead }}</p>
{% for block in section.blocks %}
{{ show(block) }}
{% endfor %}
</section>
{% endfor %}
</main>
</div>
<footer class="foot">{{ page.note }}</footer>
</body>
</html>
"""
)
