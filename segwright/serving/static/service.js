// The service's page: sends one image to /predict and shows the classes over it.
"use strict";
const at = id => document.getElementById(id);
const facts = JSON.parse(at("facts").textContent);
let latest = 0;  // number of the latest request: earlier responses are dropped
let shown = null;  // object URL of the image on the page

function showProblem(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

function addCell(row, text, kind) {
  const cell = row.insertCell();
  cell.textContent = text;
  if (kind) cell.className = kind;
  return cell;
}

function filledSvg(kind, color, width) {
  const svg = at("filled").content.firstElementChild.cloneNode(true);
  svg.setAttribute("class", kind);
  svg.firstElementChild.setAttribute("width", width);
  svg.firstElementChild.setAttribute("fill", "rgb(" + color.join(",") + ")");
  return svg;
}

function fillLegend(found) {
  const body = at("legend").tBodies[0];
  body.replaceChildren();
  for (const entry of [...found.classes].sort((a, b) => b.share - a.share)) {
    const row = body.insertRow();
    addCell(row, entry.name).prepend(filledSvg("swatch", entry.color, "100%"));
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.append(filledSvg("track", entry.color, (100 * entry.share).toFixed(1) + "%"));
    addCell(row, "").append(bar);
    addCell(row, (100 * entry.share).toFixed(1) + " %", "num");
    if (!entry.pixels) row.className = "none";
  }
}

function applyOpacity() {
  at("mask").style.opacity = at("stage").classList.contains("bare") ? 1 : at("opacity").value / 100;
  at("shown").textContent = at("opacity").value + " %";
}

function percent(share) {
  return Math.round(100 * share) + " %";
}

function showUncertainty() {
  at("unsure").hidden = !(at("layered").checked && at("unsure").getAttribute("src"));
}

function showQuality(file, found) {
  const quality = found.quality;
  at("quality").hidden = !quality;
  at("layer").hidden = !found.uncertainty;
  if (found.uncertainty) {
    at("unsure").src = "data:image/png;base64," + found.uncertainty;
    at("unsure").alt = "the uncertainty of " + file.name;
  } else {
    at("unsure").removeAttribute("src");
  }
  showUncertainty();
  if (!quality) return;
  const words = quality.summary || quality.note;
  at("estimate").textContent = words[0].toUpperCase() + words.slice(1) + ".";
  for (const note of quality.notes || []) at("estimate").textContent += " Note: " + note + ".";
  const body = at("regions").tBodies[0];
  body.replaceChildren();
  const doubtful = (quality.regions || []).filter(region => region.probability_wrong >= 0.5).slice(0, 12);
  at("doubtful").hidden = !doubtful.length;
  for (const region of doubtful) {
    const row = body.insertRow();
    addCell(row, region.class);
    addCell(row, region.box[0] + ", " + region.box[1], "num");
    addCell(row, region.area, "num");
    addCell(row, percent(region.probability_wrong), "num");
  }
}

function showPrediction(file, found) {
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  const stage = at("stage");
  stage.classList.remove("bare");
  at("image").hidden = false;
  at("slider").hidden = false;
  at("unseen").hidden = true;
  at("image").onerror = () => {  // such as a TIFF: the service reads it, browsers do not
    at("image").hidden = true;
    at("slider").hidden = true;
    at("unseen").hidden = false;
    stage.classList.add("bare");
    applyOpacity();
  };
  at("image").src = shown;
  at("mask").src = "data:image/png;base64," + found.mask;
  at("mask").alt = "the classes of " + file.name;
  at("name").textContent = file.name;
  at("size").textContent = found.width + "\u00d7" + found.height;
  at("time").textContent = Math.round(found.milliseconds) + " ms";
  at("sure").textContent = (100 * found.mean_confidence).toFixed(1) + " %";
  fillLegend(found);
  showQuality(file, found);
  applyOpacity();
  at("result").hidden = false;
}

async function predict(file) {
  const mine = ++latest;
  showProblem("");
  if (file.size > facts.max_bytes) {
    showProblem(file.name + ": larger than the limit of " + facts.max_bytes / 1e6 + " MB.");
    return;
  }
  at("state").textContent = "predicting " + file.name + " \u2026";
  at("result").classList.add("busy");
  try {
    const response = await fetch("predict?as=json&mask=true" + (at("detail").checked ? "&quality=true" : ""), {
      method: "POST", body: file, headers: {"Content-Type": "application/octet-stream"}});
    const found = await response.json();
    if (mine !== latest) return;
    if (response.ok) showPrediction(file, found);
    else showProblem([file.name + ": " + found.error,
      found.expected && "expected: " + found.expected, found.found && "found: " + found.found,
      found.fix && "fix: " + found.fix].filter(Boolean).join("\n"));
  } catch (error) {
    if (mine === latest) showProblem("The service cannot be reached (" + error.message + ").");
  }
  if (mine === latest) {
    at("state").textContent = "or drop it here";
    at("result").classList.remove("busy");
  }
}

at("file").addEventListener("change", event => {
  if (event.target.files.length) predict(event.target.files[0]);
  event.target.value = "";  // so that choosing the same file again is a change
});
at("opacity").addEventListener("input", applyOpacity);
at("layered").addEventListener("change", showUncertainty);
addEventListener("dragover", event => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const files = event.dataTransfer.files;
  if (files.length === 1) predict(files[0]);
  else showProblem(files.length ? "One image at a time." : "This is not a file: save the image, then drop the file.");
});
addEventListener("paste", event => {
  if (event.clipboardData.files.length) predict(event.clipboardData.files[0]);
});
