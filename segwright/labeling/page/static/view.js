// What is on the screen: the image in tiles, the masks over it, the outlined region, and what a tool shows.
import {hatched, lookup} from "./colors.js";
import {UNLABELED} from "./masks.js";

const PART = 512;  // side of a piece of the overlay
const MOST_PARTS = 160;  // pieces in memory, a megabyte each
const MOST_ZOOM = 40;

export class View {
  constructor(stage, base, top, tile) {
    Object.assign(this, {stage, base, top, tile});
    this.image = null;
    this.scale = 1;  // screen pixels (CSS) per image pixel
    this.x = 0;  // image coordinates of the stage's left upper corner
    this.y = 0;
    this.shown = "both";
    this.opacity = .5;
    this.hatch = false;
    this.outline = null;
    this.parts = new Map();
    this.drawTool = () => {};
    this.onMoved = () => {};
    this.colors = [];
    new ResizeObserver(() => this.resize()).observe(stage);
  }

  resize() {
    const {clientWidth: width, clientHeight: height} = this.stage;
    if (!width || !height) return;
    const first = !this.width, fitted = this.fitted;
    const middle = this.image && !first ? this.toImage(this.width / 2, this.height / 2) : null;
    [this.width, this.height] = [width, height];
    this.ratio = Math.min(2, window.devicePixelRatio || 1);
    for (const canvas of [this.base, this.top]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    if (first || fitted) this.fit();
    else if (middle) this.lookAt(middle[0], middle[1]);
    this.draw();
  }

  show(image, keepPlace = false) {
    if (this.image !== image) {
      this.image = image;
      this.parts.clear();
      if (!keepPlace) this.fit();
    }
    this.draw();
  }

  setColors(colors) {
    this.colors = colors;
    this.dirtyAll();
  }

  dirtyAll() {
    this.parts.clear();
    this.draw();
  }

  // Pixels of the masks have changed within a box.
  dirty([left, top, right, bottom]) {
    for (const [key, part] of this.parts) {
      const side = PART << part.level;
      if (part.column * side < right && (part.column + 1) * side > left &&
          part.row * side < bottom && (part.row + 1) * side > top) this.parts.delete(key);
    }
    this.draw();
  }

  toImage(x, y) {
    return [this.x + x / this.scale, this.y + y / this.scale];
  }

  fromImage(x, y) {
    return [(x - this.x) * this.scale, (y - this.y) * this.scale];
  }

  fit() {
    if (!this.image || !this.width) return;
    this.scale = Math.min(this.width / this.image.width, this.height / this.image.height, 8);
    this.lookAt(this.image.width / 2, this.image.height / 2);
    this.fitted = true;
  }

  least() {
    return Math.min(this.width / this.image.width, this.height / this.image.height, 1) * .8;
  }

  lookAt(x, y) {
    this.x = x - this.width / this.scale / 2;
    this.y = y - this.height / this.scale / 2;
    this.moved();
  }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    if (!this.image) return;
    const [ix, iy] = this.toImage(x, y);
    this.scale = Math.max(this.least(), Math.min(MOST_ZOOM, this.scale * factor));
    this.x = ix - x / this.scale;
    this.y = iy - y / this.scale;
    this.moved();
  }

  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.moved();
  }

  moved() {
    this.fitted = false;
    const wide = this.width / this.scale, high = this.height / this.scale;
    const {width, height} = this.image;  // at least the middle of the stage stays on the image
    this.x = Math.max(-wide / 2, Math.min(width - wide / 2, this.x));
    this.y = Math.max(-high / 2, Math.min(height - high / 2, this.y));
    this.onMoved();
    this.draw();
  }

  // Bring a box into view, as large as helps.
  lookAtBox([left, top, right, bottom]) {
    const [x0, y0] = this.fromImage(left, top), [x1, y1] = this.fromImage(right, bottom);
    const visible = x0 >= 0 && y0 >= 0 && x1 <= this.width && y1 <= this.height;
    if (visible && Math.max(x1 - x0, y1 - y0) > 40) return;
    const room = Math.min(this.width / (right - left), this.height / (bottom - top)) / 3;
    this.scale = Math.max(this.least(), Math.min(room, 6, MOST_ZOOM));
    this.lookAt((left + right) / 2, (top + bottom) / 2);
  }

  draw() {
    if (this.queued) return;
    this.queued = requestAnimationFrame(() => {
      this.queued = 0;
      this.paint();
      this.paintTop();
    });
  }

  drawTop() {
    if (this.queued || this.queuedTop) return;
    this.queuedTop = requestAnimationFrame(() => {
      this.queuedTop = 0;
      this.paintTop();
    });
  }

  level() {
    const deepest = this.image.levels;
    return Math.max(0, Math.min(deepest, Math.floor(Math.log2(1 / (this.scale * this.ratio)) + .01)));
  }

  transform(context) {
    const zoom = this.scale * this.ratio;
    context.setTransform(zoom, 0, 0, zoom, -this.x * zoom, -this.y * zoom);
    return zoom;
  }

  paint() {
    const context = this.base.getContext("2d", {alpha: false});
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#1b1d21";
    context.fillRect(0, 0, this.base.width, this.base.height);
    if (!this.image || !this.width) return;
    const zoom = this.transform(context);
    context.imageSmoothingEnabled = zoom < 2;
    const level = this.level();
    if (!this.loaded(level)) {  // coarser tiles stand for those that are on their way
      for (let rough = this.image.levels; rough > level; rough--) this.paintTiles(context, rough, false);
    }
    this.paintTiles(context, level, true);
    if (this.shown !== "image") {
      context.imageSmoothingEnabled = false;
      this.paintOverlay(context, level);
    }
  }

  // Calls each(row, column) for the squares of a side (in image pixels) that are on the screen.
  eachVisible(side, each) {
    const {width, height} = this.image;
    const right = Math.min(width, this.x + this.width / this.scale);
    const bottom = Math.min(height, this.y + this.height / this.scale);
    for (let row = Math.max(0, Math.floor(this.y / side)); row * side < bottom; row++) {
      for (let column = Math.max(0, Math.floor(this.x / side)); column * side < right; column++) each(row, column);
    }
  }

  loaded(level) {
    let all = true;
    this.eachVisible(this.tile << level, (row, column) => {
      if (!this.image.tile(level, row, column, true, () => this.draw())) all = false;
    });
    return all;
  }

  paintTiles(context, level, load) {
    const side = this.tile << level;
    this.eachVisible(side, (row, column) => {
      const found = this.image.tile(level, row, column, load, () => this.draw());
      if (!found) return;
      context.drawImage(found, column * side, row * side, found.naturalWidth << level, found.naturalHeight << level);
    });
  }

  paintOverlay(context, level) {
    const side = PART << level;
    this.eachVisible(side, (row, column) => {
      const part = this.part(level, row, column);
      context.drawImage(part.canvas, column * side, row * side, part.width << level, part.height << level);
    });
  }

  part(level, row, column) {
    const key = level + "/" + row + "/" + column;
    let found = this.parts.get(key);
    if (found) return found;
    found = this.makePart(level, row, column);
    this.parts.set(key, found);
    if (this.parts.size > MOST_PARTS) this.parts.delete(this.parts.keys().next().value);
    return found;
  }

  makePart(level, row, column) {
    const {width: wide, height: high, labels, prediction} = this.image;
    const step = 1 << level, left = column * PART * step, top = row * PART * step;
    const width = Math.min(PART, Math.ceil((wide - left) / step)), height = Math.min(PART, Math.ceil((high - top) / step));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const data = new ImageData(width, height), pixels = new Uint32Array(data.data.buffer);
    const strong = this.shown !== "model" && labels ? lookup(this.colors, Math.min(1, this.opacity * 1.35)) : null;
    const weak = this.shown !== "labels" && prediction ? lookup(this.colors, this.opacity * .62) : null;
    for (let y = 0, i = 0; y < height; y++) {
      let at = (top + y * step) * wide + left;
      for (let x = 0; x < width; x++, i++, at += step) {
        const label = strong ? labels[at] : UNLABELED;
        const shown = label !== UNLABELED ? label : weak ? prediction[at] : UNLABELED;
        if (shown === UNLABELED) continue;
        pixels[i] = label !== UNLABELED ? strong[shown] : weak[shown];
        if (this.hatch && hatched(shown, column * PART + x, row * PART + y)) pixels[i] = 0xd0000000;
      }
    }
    canvas.getContext("2d").putImageData(data, 0, 0);
    return {canvas, level, row, column, width, height};
  }

  paintTop() {
    const context = this.top.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.top.width, this.top.height);
    if (!this.image || !this.width) return;
    const zoom = this.transform(context);
    if (this.outline) {  // black under dashed white: seen on anything
      context.lineJoin = "round";
      context.setLineDash([]);
      context.strokeStyle = "#000";
      context.lineWidth = 5 * this.ratio / zoom;
      context.stroke(this.outline);
      context.strokeStyle = "#fff";
      context.lineWidth = 2.4 * this.ratio / zoom;
      context.stroke(this.outline);
      context.strokeStyle = "#d40078";
      context.setLineDash([7 * this.ratio / zoom, 6 * this.ratio / zoom]);
      context.stroke(this.outline);
      context.setLineDash([]);
    }
    this.drawTool(context, zoom / this.ratio, this.ratio);
  }
}
