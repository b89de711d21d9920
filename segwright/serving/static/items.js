// The images of this visit: one is sent at a time, each keeps its result.
import {Problem} from "./api.js";
import {bytesOf, decode} from "./png.js";

const STATES = {waiting: "waiting", sending: "being sent", predicting: "being predicted", done: "done",
  failed: "failed", canceled: "canceled"};
const BUSY_TRIES = 5;
const THUMB = 96;  // pixels
let count = 0;

export class Item {
  constructor(file) {
    Object.assign(this, {file, id: ++count, state: "waiting", sent: 0, found: null, problem: null, model: null});
    this.url = URL.createObjectURL(file);
  }

  get description() {
    return this.file.name + ", " + STATES[this.state];
  }

  async labels() {
    return decode(bytesOf(this.found.mask));
  }

  async doubt() {
    return this.found.uncertainty ? decode(bytesOf(this.found.uncertainty)) : null;
  }
}

// Sends what waits, in order. changed(item) is called after each change of an item.
export class Line {
  constructor(service, facts, changed) {
    Object.assign(this, {service, facts, changed, waiting: [], current: null, detail: false});
  }

  add(items, first = false) {
    this.waiting = first ? [...items, ...this.waiting] : [...this.waiting, ...items];
    items.forEach(item => this.set(item, "waiting", {problem: null}));
    this.next();
  }

  set(item, state, rest = {}) {
    Object.assign(item, {state, ...rest});
    this.changed(item);
  }

  cancel() {
    this.waiting.splice(0).forEach(item => this.set(item, "canceled", {problem: new Problem("canceled", "Canceled.")}));
    this.stop?.abort();
  }

  async next() {
    if (this.current || !this.waiting.length) return;
    const item = this.current = this.waiting.shift();
    this.stop = new AbortController();
    try {
      this.check(item);
      await this.predict(item);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      const state = error.kind === "canceled" ? "canceled" : "failed";
      this.set(item, item.found ? "done" : state, {problem: error});
      if (error.kind === "lost" || error.kind === "key") {  // the rest would fail as well
        this.waiting.splice(0).forEach(other => this.set(other, "failed", {problem: error}));
      }
    } finally {
      this.current = null;
      this.next();
    }
  }

  check({file}) {
    const most = this.facts.bytes;
    if (file.size <= most) return;
    throw new Problem("refused", "The file is larger than this service accepts.", {
      expected: "at most " + most / 1e6 + " MB", found: (file.size / 1e6).toFixed(1) + " MB", status: 413});
  }

  async predict(item) {
    const model = this.service.chosen;
    for (let tries = 1; ; tries++) {
      this.set(item, "sending", {sent: 0, problem: null, busy: 0});
      try {
        const found = await this.service.predict(item.file, this.detail, {
          signal: this.stop.signal,
          progress: share => this.set(item, share < 1 ? "sending" : "predicting", {sent: share}),
        });
        return this.set(item, "done", {found, model});
      } catch (error) {
        if (error.kind !== "busy" || tries === BUSY_TRIES) throw error;
        this.set(item, "waiting", {busy: Math.ceil(error.details.seconds)});
        await this.pause(Math.min(error.details.seconds, 10) * 1000);
      }
    }
  }

  pause(milliseconds) {
    const {signal} = this.stop;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, milliseconds);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(new Problem("canceled", "Canceled."));
      });
    });
  }
}

// The buttons of the images; show(item) is called if one is pressed.
export class Shots {
  constructor(list, show) {
    Object.assign(this, {list, show, buttons: new Map()});
  }

  update(item, shown) {
    const button = this.buttons.get(item.id) || this.create(item);
    button.dataset.state = item.state;
    button.setAttribute("aria-label", item.description);
    button.title = item.description;
    this.list.hidden = this.buttons.size < 2;
    for (const [id, other] of this.buttons) other.setAttribute("aria-current", String(id === shown?.id));
  }

  create(item) {
    const button = document.createElement("button");
    button.type = "button";
    const name = document.createElement("span");
    name.textContent = item.file.name;
    const canvas = document.createElement("canvas");
    button.append(canvas, name);
    button.addEventListener("click", () => this.show(item));
    this.list.appendChild(document.createElement("li")).append(button);
    this.buttons.set(item.id, button);
    thumbnail(item.file, canvas);
    return button;
  }
}

async function thumbnail(file, canvas) {
  const small = await createImageBitmap(file, {resizeWidth: 2 * THUMB, resizeQuality: "medium"}).catch(() => null);
  if (!small) return canvas.classList.add("empty");
  [canvas.width, canvas.height] = [small.width, small.height];
  canvas.getContext("2d").drawImage(small, 0, 0);
  small.close();
}
