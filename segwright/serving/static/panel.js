// What stands beside the image: the classes with their shares, how sure the model is, regions that may be wrong.
import {css} from "./colors.js";

const MOST_REGIONS = 6;
const NS = "http://www.w3.org/2000/svg";
export const percent = (share, digits = 0) => (100 * share).toFixed(digits) + " %";

function make(name, text, kind) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

// Widths and colors as attributes of an SVG: the page's policy allows no style of an element's own in its text.
function bar(kind, color, width) {
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("class", kind);
  svg.setAttribute("aria-hidden", "true");
  const rect = svg.appendChild(document.createElementNS(NS, "rect"));
  rect.setAttribute("width", width);
  rect.setAttribute("height", "100%");
  rect.setAttribute("fill", css(color));
  return svg;
}

export class Legend {
  // changed() is called if a class is shown, hidden or emphasized.
  constructor(at, stage, changed) {
    Object.assign(this, {at, stage, changed, whole: false});
    at("all").addEventListener("click", () => this.setAll(true));
    at("none").addEventListener("click", () => this.setAll(false));
    at("rest").addEventListener("click", () => {
      this.whole = !this.whole;
      this.showRest();
    });
  }

  fill(found, colors) {
    const body = this.at("legend").tBodies[0];
    const estimates = found.quality?.per_class || {};
    const most = Math.max(...found.classes.map(one => one.share), 1e-9);
    this.at("iou-head").hidden = !Object.keys(estimates).length;
    const rows = [...found.classes].sort((a, b) => b.share - a.share || a.index - b.index)
      .map(one => this.row(one, colors[one.index], one.share / most, estimates));
    body.replaceChildren(...rows);
    this.absent = rows.filter(row => row.classList.contains("none"));
    this.showRest();
  }

  row(one, color, length, estimates) {
    const row = make("tr", undefined, one.pixels ? "" : "none");
    const box = make("input");
    Object.assign(box, {type: "checkbox", checked: !this.stage.hidden.has(one.index)});
    box.dataset.index = one.index;
    box.addEventListener("change", () => {
      if (box.checked) this.stage.hidden.delete(one.index);
      else this.stage.hidden.add(one.index);
      this.changed();
    });
    const label = make("label");
    label.append(box, bar("swatch", color, "100%"), make("bdi", one.name));
    const first = make("th");
    first.scope = "row";
    first.append(label);
    const middle = make("td");
    middle.append(bar("track", color, (100 * length).toFixed(1) + "%"));
    row.append(first, middle, make("td", share(one), "num"));
    if (!this.at("iou-head").hidden) row.append(make("td", estimates[one.name] ? percent(estimates[one.name].iou) : "–", "num"));
    for (const [event, emphasis] of [["pointerenter", one.index], ["pointerleave", null], ["focusin", one.index], ["focusout", null]]) {
      row.addEventListener(event, () => this.emphasize(one.pixels && !this.stage.hidden.has(one.index) ? emphasis : null));
    }
    return row;
  }

  emphasize(index) {
    this.stage.emphasis = index;
    this.changed();
  }

  setAll(on) {
    for (const box of this.at("legend").querySelectorAll("input")) {
      box.checked = on;
      if (on) this.stage.hidden.delete(Number(box.dataset.index));
      else this.stage.hidden.add(Number(box.dataset.index));
    }
    this.changed();
  }

  // Classes without a pixel are folded away.
  showRest() {
    const button = this.at("rest");
    button.hidden = !this.absent.length;
    button.textContent = this.whole ? "Only the classes in this image" : absent(this.absent.length);
    button.setAttribute("aria-expanded", String(this.whole));
    for (const row of this.absent) row.hidden = !this.whole;
  }
}

const absent = count => count === 1 ? "1 class is not in this image" : count + " classes are not in this image";

function share({share: part, pixels}) {
  return pixels && part < .001 ? "< 0.1 %" : percent(part, 1);
}

// How sure: what the response has of it. outline(box) is called for a region that is pressed.
export class Sureness {
  constructor(at, outline) {
    Object.assign(this, {at, outline});
  }

  fill(found) {
    const {at} = this;
    at("sure").textContent = percent(found.mean_confidence, 1);
    at("size").textContent = found.width + " \u00d7 " + found.height + " pixels";
    at("time").textContent = found.milliseconds < 1000 ? Math.round(found.milliseconds) + " ms"
      : (found.milliseconds / 1000).toFixed(1) + " s";
    at("detail").hidden = Boolean(found.uncertainty);
    this.fillEstimate(found.quality);
    this.fillRegions(found.quality?.regions || []);
  }

  fillEstimate(quality) {
    const {at} = this;
    const estimate = quality?.estimated_miou;
    const known = estimate && typeof estimate.iou === "number";
    const bounded = known && typeof estimate.low === "number" && typeof estimate.high === "number";
    at("iou").hidden = at("iou-name").hidden = !known;
    at("gauge").hidden = !bounded;
    at("estimate").hidden = !quality;
    if (known) at("iou").textContent = percent(estimate.iou);
    if (bounded) {
      at("iou").textContent += " (" + percent(estimate.low) + " to " + percent(estimate.high) + ")";
      at("gauge-range").style.left = 100 * estimate.low + "%";
      at("gauge-range").style.width = 100 * (estimate.high - estimate.low) + "%";
      at("gauge-value").style.left = 100 * estimate.iou + "%";
      at("gauge").setAttribute("aria-label", "Estimated mIoU " + at("iou").textContent + " on a scale from 0 to 100 %");
    }
    if (!quality) return;
    const words = quality.summary || (quality.note === undefined ? "" : "This model has no error model, so that its IoU on this image is not estimated");
    at("estimate").textContent = [words, ...(quality.notes || [])].filter(Boolean)
      .map(text => text[0].toUpperCase() + text.slice(1) + ".").join(" ");
  }

  fillRegions(regions) {
    const doubtful = regions.filter(region => region.probability_wrong >= .5).slice(0, MOST_REGIONS);
    this.at("doubtful").hidden = !doubtful.length;
    this.at("regions").replaceChildren(...doubtful.map(region => {
      const button = make("button");
      button.type = "button";
      button.append(make("bdi", region.class), make("span", percent(region.probability_wrong) + " wrong", "small"));
      button.addEventListener("click", () => this.outline(region.box));
      const entry = make("li");
      entry.append(button);
      return entry;
    }));
  }
}
