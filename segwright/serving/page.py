"""The page at ``/``: choose an image, see what the model makes of it. One document, nothing fetched but the answer."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from segwright.reports import STYLE, Markup, definitions, heading, page, tag
from segwright.serving.limits import ServiceLimits

_STYLE = """
.drop{display:block;border:2px dashed var(--rule);border-radius:12px;background:var(--card);padding:26px 18px;
text-align:center;cursor:pointer}
.drop:hover,.drop.over{border-color:var(--accent)}
.drop:focus-within{outline:3px solid var(--accent);outline-offset:2px}
.drop b{color:var(--accent)}
.drop input{position:absolute;opacity:0;width:1px;height:1px}
.drop .small{display:block;margin-top:4px}
#problem{margin-top:14px;white-space:pre-line;overflow-wrap:anywhere}
#result{display:grid;grid-template-columns:minmax(0,1.7fr) minmax(270px,1fr);gap:14px;margin-top:14px;align-items:start}
#result .card+.card{margin-top:0}
#result dl{grid-template-columns:max-content 1fr;gap:4px 18px;margin-top:14px}
#result dd{margin:0}
#model{margin-top:14px}
#unseen{margin:10px 0 0}
.stage{position:relative;overflow:hidden;border-radius:8px;background:var(--track);line-height:0}
.stage img{display:block;width:100%;height:auto}
#mask{position:absolute;inset:0;height:100%;image-rendering:pixelated}
.stage.bare #mask{position:static;height:auto}
.slider{display:flex;align-items:center;gap:12px;margin-top:12px;font-size:14px;color:var(--soft)}
.slider input{flex:1;accent-color:var(--accent);min-width:0}
.slider output{min-width:3.2em;text-align:right;font-variant-numeric:tabular-nums}
#legend td:first-child{white-space:normal;overflow-wrap:anywhere}
#legend tr.none{color:var(--soft)}
.busy{opacity:.55}
[hidden]{display:none!important}
@media(max-width:820px){#result{grid-template-columns:minmax(0,1fr)}}
"""

_SCRIPT = """
"use strict";
const at = id => document.getElementById(id);
const facts = JSON.parse(at("facts").textContent);
let latest = 0, shown = null;
function say(text) { at("problem").textContent = text; at("problem").hidden = !text; }
function cell(row, text, kind) {
  const made = row.insertCell();
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
function legend(found) {
  const body = at("legend").tBodies[0];
  body.replaceChildren();
  for (const entry of [...found.classes].sort((a, b) => b.share - a.share)) {
    const row = body.insertRow();
    const name = cell(row, entry.name);
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = "rgb(" + entry.color.join(",") + ")";
    name.prepend(swatch);
    const track = document.createElement("span"), fill = document.createElement("span");
    track.className = "track"; fill.className = "fill";
    fill.style.width = (100 * entry.share).toFixed(1) + "%";
    fill.style.background = swatch.style.background;
    track.append(fill);
    const bar = document.createElement("span");
    bar.className = "bar"; bar.append(track);
    cell(row, "").append(bar);
    cell(row, (100 * entry.share).toFixed(1) + " %", "num");
    if (!entry.pixels) row.className = "none";
  }
}
function fade() {
  at("mask").style.opacity = at("stage").classList.contains("bare") ? 1 : at("opacity").value / 100;
  at("shown").textContent = at("opacity").value + " %";
}
function show(file, found) {
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  const stage = at("stage");
  stage.classList.remove("bare");
  at("image").hidden = false;
  at("slider").hidden = false;
  at("unseen").hidden = true;
  at("image").onerror = () => {  // a TIFF, say: the service reads it, browsers do not
    at("image").hidden = true; at("slider").hidden = true;
    at("unseen").hidden = false; stage.classList.add("bare"); fade();
  };
  at("image").src = shown;
  at("mask").src = "data:image/png;base64," + found.mask;
  at("mask").alt = "the classes of " + file.name;
  at("name").textContent = file.name;
  at("size").textContent = found.width + "\\u00d7" + found.height;
  at("time").textContent = Math.round(found.milliseconds) + " ms";
  at("sure").textContent = (100 * found.mean_confidence).toFixed(1) + " %";
  legend(found);
  fade();
  at("result").hidden = false;
}
async function ask(file) {
  const mine = ++latest;
  say("");
  if (file.size > facts.max_bytes) {
    say(file.name + ": larger than the limit of " + facts.max_bytes / 1e6 + " MB.");
    return;
  }
  at("state").textContent = "working on " + file.name + " \\u2026";
  at("result").classList.add("busy");
  try {
    const answer = await fetch("predict?as=json&mask=true", {
      method: "POST", body: file, headers: {"Content-Type": "application/octet-stream"}});
    const found = await answer.json();
    if (mine !== latest) return;
    if (answer.ok) show(file, found);
    else say([file.name + ": " + found.error,
      found.expected && "expected: " + found.expected, found.found && "found: " + found.found,
      found.fix && "fix: " + found.fix].filter(Boolean).join("\\n"));
  } catch (error) {
    if (mine === latest) say("The service does not answer (" + error.message + ").");
  }
  if (mine === latest) {
    at("state").textContent = "or drop it here";
    at("result").classList.remove("busy");
  }
}
at("file").addEventListener("change", event => {
  if (event.target.files.length) ask(event.target.files[0]);
  event.target.value = "";  // the same file again is a change as well
});
at("opacity").addEventListener("input", fade);
addEventListener("dragover", event => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const files = event.dataTransfer.files;
  if (files.length === 1) ask(files[0]);
  else say(files.length ? "One image at a time." : "That is no file: save the image, then drop the file.");
});
addEventListener("paste", event => { if (event.clipboardData.files.length) ask(event.clipboardData.files[0]); });
"""


def service_page(model: Mapping[str, Any], limits: ServiceLimits) -> tuple[bytes, str]:
    """The document, UTF-8, and the Content-Security-Policy to send with it. ``model`` is what ``/model`` says."""
    policy = content_policy()
    count, post, views = len(model["classes"]), model["post"], model["tta"]
    # Inside a script element nothing is unescaped; "<" alone could end it.
    facts = json.dumps({"max_bytes": limits.max_bytes}).replace("<", "\\u003c")
    body = (
        heading(str(model["name"]), f"{model['architecture'] or 'a network'}, {count} classes", kicker="segwright"),
        _drop(limits),
        tag("p", "", id="problem", class_="bad", role="alert", hidden=""),
        _result(),
        tag(
            "div",
            tag("h3", "The model"),
            definitions(
                [
                    ("device", model["device"]),
                    ("post-processing", post or "none"),
                    ("test-time views", views or "none"),
                    ("classes", ", ".join(entry["name"] for entry in model["classes"])),
                ]
            ),
            id="model",
            class_="card",
        ),
        Markup(f'<script type="application/json" id="facts">{facts}</script>'),
    )
    footer = tag("span", "For programs: ", tag("code", "POST /predict"), " with the image's bytes as the body.")
    document = page(f"{model['name']} · segwright", *body, footer=footer, style=_STYLE, script=_SCRIPT, policy=policy)
    return document.encode("utf-8", "replace"), f"{policy}; frame-ancestors 'none'"


@functools.cache
def content_policy() -> str:
    """Our script and our style sheet by their hashes, images of the page itself, answers of this service: no more."""
    return (
        f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(STYLE + _STYLE)}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}'"


def _drop(limits: ServiceLimits) -> Markup:
    bounds = f"PNG, JPEG, TIFF, WebP, up to {limits.max_megabytes:g} MB and {limits.max_megapixels:g} megapixels"
    return tag(
        "label",
        Markup('<input type="file" id="file" accept="image/*,.tif,.tiff">'),
        tag("b", "Choose an image"), " ", tag("span", "or drop it here", id="state", aria_live="polite"),
        tag("span", bounds, class_="small"),
        class_="drop", id="drop",
    )  # fmt: skip


def _result() -> Markup:
    stage = Markup('<div class="stage" id="stage"><img id="image" alt=""><img id="mask" alt=""></div>')
    slider = Markup(
        '<label class="slider" id="slider"><span>classes</span>'
        '<input type="range" id="opacity" min="0" max="100" value="50"><output id="shown">50 %</output></label>'
    )
    unseen = tag("p", "Browsers do not show this kind of file: the classes alone.", id="unseen", class_="small")
    head = tag("tr", tag("th", "class"), tag("th", "share of the image", colspan=2))
    table = tag("table", tag("thead", head), tag("tbody"), id="legend")
    numbers = definitions(
        [
            ("size", tag("span", "", id="size")),
            ("time", tag("span", "", id="time")),
            ("mean confidence", tag("span", "", id="sure")),
        ]
    )
    return tag(
        "div",
        tag("div", tag("h3", "", id="name"), stage, slider, unseen, class_="card"),
        tag("div", tag("div", table, class_="scroll"), numbers, class_="card"),
        id="result", hidden="",
    )  # fmt: skip
