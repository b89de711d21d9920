// One image on the page: its label mask, the model's mask, superpixels, and its tiles.
import {decodeLabels, decodeUnits} from "./masks.js";
import {getJson, getRuns} from "./server.js";

const MOST_TILES = 64;

export class LabelImage {
  static async load(number) {
    const facts = await getJson("api/images/" + number);
    const image = new LabelImage(facts);
    await Promise.all([image.loadLabels(), image.loadPrediction(), image.tileReady(facts.levels, 0, 0)]);
    return image;
  }

  constructor(facts) {
    Object.assign(this, facts);
    this.path = "api/images/" + facts.number + "/";
    this.count = facts.width * facts.height;
    this.labels = this.prediction = this.units = this.scratch = null;
    this.version = -1;
    this.tiles = new Map();
  }

  async loadLabels() {
    const {runs, headers} = await getRuns(this.path + "labels");
    this.labels = decodeLabels(runs, this.count);
    this.revision = Number(headers.get("x-revision"));
  }

  async loadPrediction() {
    const {runs, headers} = await getRuns(this.path + "prediction");
    this.prediction = runs.length ? decodeLabels(runs, this.count) : null;
    this.version = Number(headers.get("x-version") || 0);
  }

  loadUnits() {
    this.unitsComing ||= getRuns(this.path + "units").then(({runs}) => {
      this.units = decodeUnits(runs, this.count);
      return this.units;
    }).catch(() => {
      this.unitsComing = null;
      return null;
    });
    return this.unitsComing;
  }

  // The tile as an image element, or null while it is loading; ready is called when it is there.
  tile(level, row, column, load, ready) {
    const key = level + "/" + row + "/" + column;
    let found = this.tiles.get(key);
    if (!found) {
      if (!load) return null;
      found = new Image();
      found.decoding = "async";
      found.src = this.path + "tiles/" + key;
      found.addEventListener("load", ready);
      this.tiles.set(key, found);
      if (this.tiles.size > MOST_TILES) this.tiles.delete(this.tiles.keys().next().value);
    }
    return found.complete && found.naturalWidth ? found : null;
  }

  tileReady(level, row, column) {
    return new Promise(done => {
      if (this.tile(level, row, column, true, done)) done();
      this.tiles.get(level + "/" + row + "/" + column).addEventListener("error", done);
    });
  }

  needScratch() {
    this.scratch ||= new Uint8Array(this.count);
    this.original ||= new Uint8Array(this.count);
    return this;
  }

  clearScratch([left, top, right, bottom]) {
    for (let y = top; y < bottom; y++) this.scratch.fill(0, y * this.width + left, y * this.width + right);
  }

  // The labels of a box; with ``before`` those that the stroke under way has replaced.
  cut([left, top, right, bottom], before = false) {
    const found = new Uint8Array((right - left) * (bottom - top));
    for (let y = top, i = 0; y < bottom; y++) {
      for (let at = y * this.width + left, end = y * this.width + right; at < end; at++, i++) {
        found[i] = before && this.scratch[at] ? this.original[at] : this.labels[at];
      }
    }
    return found;
  }

  paste([left, top, right, bottom], labels) {
    const wide = right - left;
    for (let y = top; y < bottom; y++) {
      this.labels.set(labels.subarray((y - top) * wide, (y - top + 1) * wide), y * this.width + left);
    }
  }
}
