// Classes, what is shown and how, and the dialogs. Methods of the page.
import {palette} from "./colors.js";
import {UNLABELED} from "./masks.js";
import * as panel from "./panel.js";
import {getJson} from "./server.js";

const at = id => document.getElementById(id);
const SHOWN = ["both", "labels", "model", "image"];

export const looks = {
  chooseClass(index) {
    if (index >= this.classes.length) return this.announce("there are " + this.classes.length + " classes");
    this.label_ = index;
    if (this.tools.name === "answer") this.answer(index);
    else if (this.tools.name === "eraser") this.tools.choose("brush");
    this.changed();
    if (this.tools.name !== "answer") this.announce(this.classes[index].name);
  },

  changed() {
    panel.showTools(this.tools, this.shown, this.view.opacity, this.view.hatch);
    panel.showChosen(this.label_, this.tools.name === "answer");
    at("undo").disabled = !this.past.length;
    at("redo").disabled = !this.future.length;
  },

  under(x, y) {
    const image = this.image(), place = y * image.width + x;
    const label = image.labels[place], predicted = image.prediction ? image.prediction[place] : UNLABELED;
    const name = index => this.classes[index] ? this.classes[index].name : "nothing";
    const text = "labeled " + name(label) + (image.prediction ? ", model " + name(predicted) : "");
    at("under").textContent = x + ", " + y + ": " + text;
  },

  zoomPlace() {
    const {cross, mouse} = this.tools;
    return cross ? this.view.fromImage(...cross) : mouse || [this.view.width / 2, this.view.height / 2];
  },

  show(what) {
    this.shown = this.view.shown = what;
    this.view.dirtyAll();
    this.changed();
  },

  nextShown() {
    this.show(SHOWN[(SHOWN.indexOf(this.shown) + 1) % SHOWN.length]);
    this.announce("shown: " + at("shown").selectedOptions[0].text);
  },

  setOpacity(opacity) {
    this.view.opacity = Math.max(0, Math.min(1, opacity));
    this.view.dirtyAll();
    this.changed();
  },

  changeOpacity(step) {
    let next = this.view.opacity - step;
    if (next < 0) next = 1;
    this.setOpacity(next);
    this.announce("opacity " + Math.round(100 * this.view.opacity) + " %");
  },

  toggleHatch() {
    this.view.hatch = !this.view.hatch;
    this.view.dirtyAll();
    this.changed();
  },

  toggleOwn() {
    this.own = at("own").checked;
    store("own-colors", this.own ? "yes" : "no");
    this.colors = palette(this.classes, this.own);
    this.view.setColors(this.colors);
    panel.fillClasses(this.classes, this.colors, index => this.chooseClass(index));
    this.changed();
    this.showQuestion(this.hereAsked());
  },

  focusFilter() {
    at("filter-row").hidden = false;
    at("filter").focus();
    at("filter").select();
  },

  onFilterKey(event) {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    const fits = panel.filterClasses(at("filter").value);
    const chosen = event.key === "Enter" && at("filter").value.trim() && fits.length ? fits[0] : null;
    at("filter").value = "";
    panel.filterClasses("");
    at("stage").focus();
    if (chosen !== null) this.chooseClass(chosen);
  },

  // ---- dialogs

  openHelp() {
    at("help-dialog").showModal();
  },

  openName() {
    at("name-input").value = this.by;
    at("name-dialog").showModal();
    at("name-input").select();
  },

  onName(event) {
    event.preventDefault();
    const name = at("name-input").value.trim();
    if (!name) return;
    this.by = name.slice(0, 80);
    store("name", this.by);
    at("name").textContent = this.by;
    at("name-dialog").close();
    this.presence();
  },

  async openList() {
    at("list-dialog").showModal();
    at("list-filter").value = "";
    this.rows = [];
    while (this.rows.length < this.state.images) {
      const found = await getJson("api/images?from=" + this.rows.length);
      if (!found.images.length) break;
      this.rows.push(...found.images);
      this.fillList();
    }
  },

  fillList() {
    const wanted = at("list-filter").value.trim().toLowerCase();
    const fits = this.rows.filter(one => one.name.toLowerCase().includes(wanted));
    at("list-count").textContent = fits.length > 400 ? "the first 400 of " + fits.length : fits.length + " images";
    panel.fillList(fits.slice(0, 400), this.image()?.number, number => {
      at("list-dialog").close();
      this.open(number);
    });
  },

};

export function stored(key, otherwise) {
  try {
    return localStorage.getItem("segwright-label-" + key) || otherwise;
  } catch {
    return otherwise;
  }
}

export function store(key, value) {
  try {
    localStorage.setItem("segwright-label-" + key, value);
  } catch { /* no storage */ }
}
