// The page at /: images go to the service one after another, and each result is shown over its image.
import {Problem, Service} from "./api.js";
import {css, palette} from "./colors.js";
import {areasCsv, copy, curlCommand, save, shrunk, stem} from "./files.js";
import {Item, Line, Shots} from "./items.js";
import {Legend, percent, Sureness} from "./panel.js";
import {bytesOf} from "./png.js";
import {ramp, Stage} from "./stage.js";

const at = id => document.getElementById(id);
const RETRY = 3000;  // milliseconds between two looks whether the service is back
const SMALLER = 12e6;  // pixels of an image that is scaled down, if the limit allows them: a canvas of a phone holds them

class Page {
  constructor() {
    const {bytes, pixels} = at("main").dataset;
    this.facts = {bytes: Number(bytes), pixels: Number(pixels)};
    this.service = new Service();
    this.stage = new Stage(at, text => { at("readout").textContent = text; });
    this.legend = new Legend(at, this.stage, () => this.stage.paint());
    this.sureness = new Sureness(at, box => this.stage.outline(box));
    this.line = new Line(this.service, this.facts, item => this.changed(item));
    this.shots = new Shots(at("items"), item => this.show(item));
    this.shown = null;  // the item on the stage or in the message
    this.items = [];
    this.classes = [];
    this.listen();
    this.load();
  }

  // ---- the models -------------------------------------------------------------------------------------------------

  async load() {
    try {
      this.models = await this.service.describe();
      at("lost").hidden = true;
    } catch (problem) {
      return this.trouble(problem, () => this.load());
    }
    at("model-row").hidden = this.models.length < 2;
    if (!this.models.length) {
      at("facts").textContent = "This API key is for none of the models of this service.";
      return;
    }
    at("models").replaceChildren(...this.models.map(model => new Option(model.name, model.name)));
    this.choose(this.models[0]);
  }

  choose(model) {
    this.model = model;
    this.service.chosen = model.default ? null : model.name;
    this.classes = model.classes || [];
    this.stage.names = this.classes.map(one => one.name);
    this.stage.hidden.clear();
    this.line.detail = this.line.detail || Boolean(model.quality);
    document.title = model.name + " \u00b7 segwright";
    at("title").textContent = model.name;
    at("facts").textContent = describe(model);
    this.recolor();
    if (this.shown && this.shown.model !== this.service.chosen && this.shown.state === "done") this.line.add([this.shown]);
  }

  recolor() {
    this.colors = palette(this.classes, !at("safe").checked);
    this.stage.colors = this.colors;
    if (this.shown?.found) this.legend.fill(this.shown.found, this.colors);
    this.stage.paint();
  }

  // ---- trouble ----------------------------------------------------------------------------------------------------

  trouble(problem, again) {
    this.again = again;
    if (problem.kind === "key") return this.needKey();
    if (problem.kind === "lost") return this.waitForService();
    at("facts").textContent = [problem.message, ...problem.lines].join(" ");
  }

  needKey() {
    const wrong = this.service.key;
    at("door-title").textContent = wrong ? "This API key is not accepted" : "This service needs an API key";
    if (!at("door").open) at("door").showModal();
    at("key").value = "";
    at("key").focus();
  }

  async waitForService() {
    at("lost").textContent = "The service does not answer. Your images are still here, and are sent as soon as it is back.";
    at("lost").hidden = false;
    if (this.looking) return;
    this.looking = true;
    for (let back = false; !back;) {
      await new Promise(resolve => setTimeout(resolve, RETRY));
      back = await fetch("health").then(response => response.ok, () => false);
    }
    this.looking = false;
    at("lost").hidden = true;
    this.resume();
  }

  // Whatever stopped for lack of the service or of a key goes on.
  resume() {
    const again = this.again;
    this.again = null;
    if (!this.model) this.load();
    else if (again) again();
    this.line.add(this.items.filter(item => item.state === "failed" && ["lost", "key"].includes(item.problem.kind)));
  }

  showProblem(item) {
    const {problem, file} = item;
    const refused = problem && !["lost", "key", "canceled"].includes(problem.kind);
    at("problem").hidden = !refused;
    if (!refused) return;
    at("problem-title").textContent = file.name;
    at("problem-text").textContent = [problem.message, ...problem.lines].join("\n");
    at("smaller").hidden = problem.details.status !== 413;
    at("smaller").textContent = "Scale it down and send it";
    at("again").hidden = !at("smaller").hidden;
  }

  // ---- images -----------------------------------------------------------------------------------------------------

  take(files) {
    const items = [...files].map(file => new Item(file));
    if (!items.length) return;
    this.items.push(...items);
    this.follow = items[0];  // shown as soon as it has a result
    this.line.add(items);
    document.body.dataset.used = "true";
  }

  changed(item) {
    this.showProgress();
    const finished = item.state === "done" || item.state === "failed";
    if (finished && (item === this.follow || item === this.shown || !this.shown)) this.show(item);
    if (item === this.follow && finished) this.follow = null;
    this.shots.update(item, this.shown);
    if (item.problem?.kind === "lost") this.waitForService();
    if (item.problem?.kind === "key") this.needKey();
  }

  showProgress() {
    const item = this.line.current;
    const active = item && ["waiting", "sending", "predicting"].includes(item.state);
    at("status").hidden = !active;
    if (!active) return;
    const more = this.line.waiting.length;
    const name = item.file.name;
    const words = item.state === "waiting" ? "The service is busy; " + name + " is sent again in " + item.busy + " s"
      : item.state === "sending" ? "Sending " + name : "Predicting " + name;
    const text = words + (more ? ", " + more + " more" : "") + " \u2026";
    if (at("doing").textContent !== text) at("doing").textContent = text;
    if (item.state === "sending" && item.sent) at("bar").value = item.sent;
    else at("bar").removeAttribute("value");
  }

  async show(item) {
    this.shown = item;
    this.items.forEach(other => this.shots.buttons.has(other.id) && this.shots.update(other, item));
    this.showProblem(item);
    if (!item.found) {
      at("result").hidden = true;
      return;
    }
    const [labels, doubt] = await Promise.all([item.labels(), item.doubt()]);
    if (this.shown !== item) return;
    at("result").hidden = false;
    at("name").textContent = item.file.name;
    at("image").alt = item.file.name;
    const same = this.stage.url === item.url;
    if (same) Object.assign(this.stage, {labels, doubt});
    else this.stage.show(item.url, labels, doubt);
    this.stage.url = item.url;
    this.legend.fill(item.found, this.colors);
    this.sureness.fill(item.found);
    this.setView(this.stage.view === "doubt" && !doubt ? "classes" : this.stage.view);
    const url = new URL(this.service.path("as=json"), document.baseURI).href;
    at("curl").textContent = curlCommand(item.file, url, Boolean(this.service.key));
    at("copied").textContent = "";
    this.describeOver(item.found);
    at("result").dataset.item = item.file.name;
  }

  describeOver(found) {
    const present = found.classes.filter(one => one.pixels).sort((a, b) => b.share - a.share);
    at("over").setAttribute("aria-label", "Classes: " + present.map(one => one.name + " " + percent(one.share)).join(", "));
  }

  // ---- views ------------------------------------------------------------------------------------------------------

  // The uncertainty costs the service more than the labels: it is computed if it is wanted, from then on for each image.
  setView(view) {
    const item = this.shown;
    if (view === "doubt" && item?.found && !item.found.uncertainty) {
      if (!item.found.quality) return this.needDetail(item);
      this.notice("This model gives no uncertainty.");
      view = "classes";
    }
    this.stage.view = view;
    document.querySelector("input[name=view][value=" + view + "]").checked = true;
    at("ramp").hidden = view !== "doubt";
    this.stage.paint();
  }

  needDetail(item) {
    this.line.detail = true;
    this.stage.view = "doubt";
    this.line.add([item], true);
  }

  async fetchPolygons() {
    const {file} = this.shown;
    try {
      save(stem(file.name) + ".geojson", await this.service.send(file, "as=geojson"));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.kind === "key" || problem.kind === "lost") return this.trouble(problem, () => this.fetchPolygons());
      this.showProblem({file, problem});
      at("again").hidden = at("smaller").hidden = true;  // the labels are there
    }
  }

  async sendSmaller() {
    const item = this.shown;
    const small = await shrunk(item.file, Math.min(SMALLER, this.facts.pixels));
    if (!small || small.size > this.facts.bytes) {
      at("problem-text").textContent += "\nThis browser cannot scale it down.";
      return;
    }
    URL.revokeObjectURL(item.url);
    Object.assign(item, {file: small, url: URL.createObjectURL(small)});
    this.line.add([item], true);
  }

  // ---- events -----------------------------------------------------------------------------------------------------

  listen() {
    for (const id of ["file", "camera"]) {
      at(id).addEventListener("change", event => {
        this.take(event.target.files);
        event.target.value = "";  // so that choosing the same file again is a change
      });
    }
    this.listenToDrops();
    this.listenToViews();
    this.listenToSaves();
    at("models").addEventListener("change", event => this.choose(this.models[event.target.selectedIndex]));
    at("cancel").addEventListener("click", () => this.line.cancel());
    at("again").addEventListener("click", () => this.line.add([this.shown], true));
    at("smaller").addEventListener("click", () => this.sendSmaller());
    at("door-form").addEventListener("submit", event => {
      event.preventDefault();
      this.service.key = at("key").value.trim();
      at("door").close();
      this.resume();
    });
  }

  listenToDrops() {
    const drop = at("drop");
    addEventListener("dragover", event => { event.preventDefault(); drop.classList.add("over"); });
    addEventListener("dragleave", event => { if (!event.relatedTarget) drop.classList.remove("over"); });
    addEventListener("drop", event => {
      event.preventDefault();
      drop.classList.remove("over");
      const {files} = event.dataTransfer;
      if (files.length) this.take(files);
      else this.notice("This is not a file: save the image first, then drop the file.");
    });
    addEventListener("paste", event => this.take(event.clipboardData.files));
  }

  notice(text) {
    at("problem-title").textContent = text;
    at("problem-text").textContent = "";
    at("again").hidden = at("smaller").hidden = true;
    at("problem").hidden = false;
  }

  listenToViews() {
    const {stage} = this;
    for (const radio of document.querySelectorAll("input[name=view]")) {
      radio.addEventListener("change", () => this.setView(radio.value));
    }
    at("opacity").addEventListener("input", event => {
      stage.opacity = event.target.value / 100;
      at("shown").textContent = event.target.value + " %";
      stage.paint();
    });
    at("compare").addEventListener("click", event => {
      stage.setComparing(!stage.comparing);
      event.currentTarget.setAttribute("aria-pressed", String(stage.comparing));
    });
    at("wipe").addEventListener("input", event => stage.setBorder(event.target.value / 100));
    at("in").addEventListener("click", () => stage.zoomBy(1));
    at("out").addEventListener("click", () => stage.zoomBy(-1));
    at("safe").addEventListener("change", () => this.recolor());
    at("hatch").addEventListener("change", event => {
      stage.hatch = event.target.checked;
      stage.paint();
    });
    at("detail").addEventListener("click", () => this.setView("doubt"));
    const context = at("ramp-colors").getContext("2d");
    for (let x = 0; x < 160; x++) {
      context.fillStyle = css(ramp(x / 159));
      context.fillRect(x, 0, 1, 10);
    }
  }

  listenToSaves() {
    const name = suffix => stem(this.shown.file.name) + suffix;
    at("save-mask").addEventListener("click", () => {
      save(name("-mask.png"), new Blob([bytesOf(this.shown.found.mask)], {type: "image/png"}));
    });
    at("save-overlay").addEventListener("click", async () => save(name("-overlay.png"), await this.stage.overlay()));
    at("save-polygons").addEventListener("click", () => this.fetchPolygons());
    at("save-areas").addEventListener("click", () => {
      save(name("-areas.csv"), areasCsv(this.shown.file.name, this.shown.found));
    });
    at("copy").addEventListener("click", async () => {
      at("copied").textContent = await copy(at("curl")) ? "Copied." : "Not copied: select the text and copy it.";
    });
  }
}

function describe(model) {
  const parts = [model.architecture, (model.classes || []).length + " classes"];
  const {val_miou: miou, val_miou_ci95: range} = model.metrics || {};
  if (typeof miou === "number") {
    const bounds = Array.isArray(range) && range.every(Number.isFinite)
      ? " (95 % interval " + (100 * range[0]).toFixed(1) + " to " + (100 * range[1]).toFixed(1) + ")" : "";
    parts.push("mIoU " + percent(miou, 1) + " on its validation images" + bounds);
  }
  return parts.filter(Boolean).join(" \u00b7 ");
}

new Page();
