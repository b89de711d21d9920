// One image on the page: its label mask, the model's mask, superpixels, and its tiles.
import {decodeLabels, decodeUnits} from "./masks.js";
import {getBlob, getJson, getRuns} from "./server.js";

const MOST_TILES = 48;  // decoded ones of all images together, up to 4 MB each
const tiles = new Map();  // path → {image, bitmap}, the one that was used longest ago first

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

  // The tile's pixels, decoded, or null while it is on its way; ready is called when it is there.
  tile(level, row, column, load, ready = () => {}) {
    const path = this.path + "tiles/" + level + "/" + row + "/" + column;
    let found = tiles.get(path);
    if (!found || found.image !== this) {
      if (!load) return null;
      found = {image: this, bitmap: null, coming: this.fetchTile(path)};
    }
    tiles.delete(path);
    tiles.set(path, found);
    if (tiles.size > MOST_TILES) tiles.delete(tiles.keys().next().value);
    if (!found.bitmap) found.coming.then(there => { if (there) ready(); });
    return found.bitmap;
  }

  // Whether the tile came; one that did not is asked for again later.
  async fetchTile(path) {
    try {
      const bitmap = await createImageBitmap(await getBlob(path));
      const found = tiles.get(path);
      if (found && found.image === this) found.bitmap = bitmap;
      return true;
    } catch {
      setTimeout(() => { if (tiles.get(path)?.image === this) tiles.delete(path); }, 2000);
      return false;
    }
  }

  tileReady(level, row, column) {
    this.tile(level, row, column, true);
    return tiles.get(this.path + "tiles/" + level + "/" + row + "/" + column).coming;
  }

  dropTiles() {
    for (const [path, found] of tiles) {
      if (found.image === this) tiles.delete(path);
    }
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
