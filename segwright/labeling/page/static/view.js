// What is on the screen: the image in tiles, the masks over it, the outlined region, and what a tool shows.
import {hatched, lookup} from "./colors.js";
import {UNLABELED} from "./masks.js";

const PART = 512;  // side of a piece of the overlay
const MOST_PARTS = 160;  // pieces in memory, a megabyte each, of all images together
const MOST_ZOOM = 40;
const WHOLE = [-Infinity, -Infinity, Infinity, Infinity];
const idle = window.requestIdleCallback ? act => requestIdleCallback(act, {timeout: 300}) : act => setTimeout(act, 1);

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
    this.looks = 0;  // how often colors or what is shown changed: pieces of before are made again
    this.parts = new Map();  // image number and place → a piece of its overlay; also of images that come next
    this.damage = null;  // the box of the image that the next frame paints again
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
      if (!keepPlace) this.fit();
    }
    this.draw();
  }

  setColors(colors) {
    this.colors = colors;
    this.dirtyAll();
  }

  dirtyAll() {
    this.looks++;
    this.draw();
  }

  // Pixels of an image's masks have changed within a box: of its pieces, what lies there is made again.
  dirty(box, image = this.image) {
    for (const part of this.parts.values()) {
      if (part.image !== image) continue;
      const side = PART << part.level, left = part.column * side, top = part.row * side;
      const inside = cut(box, [left, top, left + side, top + side]);
      if (inside) part.stale = join(part.stale, inside);
    }
    if (image === this.image) this.draw(box);
  }

  // The image is no longer kept.
  forget(image) {
    for (const [key, part] of this.parts) {
      if (part.image === image) this.parts.delete(key);
    }
    image.dropTiles();
  }

  // Both masks of an image were read again.
  renewed(image) {
    this.dirty([0, 0, image.width, image.height], image);
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

  // Paint a box of the image again, by default everything, and what lies over it.
  draw(box = WHOLE) {
    this.damage = join(this.damage, box);
    this.drawTop();
  }

  drawTop() {
    if (this.queued) return;
    this.queued = requestAnimationFrame(() => {
      this.queued = 0;
      const damage = this.damage;
      this.damage = null;
      if (damage) this.paint(damage);
      this.paintTop();
    });
  }

  // Make what opening this image will show, while nothing else happens: its tiles, and the pieces of its overlay.
  async prepare(image, box) {
    if (!this.width || image === this.image) return;
    const later = Object.create(this);  // where the view will be then
    later.draw = later.onMoved = () => {};
    later.image = image;
    later.fit();
    if (box) later.lookAtBox(box);
    const level = later.level();
    const missing = [];
    later.eachVisible(this.tile << level, (row, column) => image.tile(level, row, column, true));
    if (this.shown === "image") return;
    later.eachVisible(PART << level, (row, column) => {
      if (!this.has(image, level, row, column)) missing.push([row, column]);
    });
    for (const [row, column] of missing) {
      await new Promise(idle);
      this.part(level, row, column, image);
    }
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

  // Paint a box of the image, in whole pixels of the screen: what lies around it stays as it is.
  paint(damage) {
    const context = this.base.getContext("2d", {alpha: false});
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#1b1d21";
    const level = this.image && this.width ? this.level() : 0;
    const box = damage[0] === -Infinity || !this.image ? WHOLE : this.grown(damage, 2 << level);
    context.save();
    if (box !== WHOLE) {
      const [x0, y0] = this.fromImage(box[0], box[1]), [x1, y1] = this.fromImage(box[2], box[3]);
      const left = Math.floor(x0 * this.ratio), top = Math.floor(y0 * this.ratio);
      context.beginPath();
      context.rect(left, top, Math.ceil(x1 * this.ratio) - left, Math.ceil(y1 * this.ratio) - top);
      context.clip();
    }
    context.fillRect(0, 0, this.base.width, this.base.height);
    if (this.image && this.width) this.paintImage(context, level, box);
    context.restore();
  }

  // Neighbors of a changed pixel may be of another color, too, by smoothing and by rounding.
  grown([left, top, right, bottom], pixels) {
    return [left - pixels, top - pixels, right + pixels, bottom + pixels];
  }

  paintImage(context, level, box) {
    const zoom = this.transform(context);
    context.imageSmoothingEnabled = zoom < 2;
    if (!this.loaded(level)) {  // coarser tiles stand for those that are on their way
      for (let rough = this.image.levels; rough > level; rough--) this.paintTiles(context, rough, false, box);
    }
    this.paintTiles(context, level, true, box);
    if (this.shown !== "image") {
      context.imageSmoothingEnabled = false;
      this.paintOverlay(context, level, box);
    }
  }

  // Calls each(row, column) for the squares of a side (in image pixels) that are on the screen and in the box.
  eachVisible(side, each, box = WHOLE) {
    const {width, height} = this.image;
    const right = Math.min(width, this.x + this.width / this.scale, box[2]);
    const bottom = Math.min(height, this.y + this.height / this.scale, box[3]);
    const left = Math.max(0, this.x, box[0]), top = Math.max(0, this.y, box[1]);
    for (let row = Math.floor(top / side); row * side < bottom; row++) {
      for (let column = Math.floor(left / side); column * side < right; column++) each(row, column);
    }
  }

  loaded(level) {
    let all = true;
    this.eachVisible(this.tile << level, (row, column) => {
      if (!this.seeTile(level, row, column)) all = false;
    });
    return all;
  }

  // A tile of the shown image, or null; then it is painted when it is there.
  seeTile(level, row, column) {
    const image = this.image, side = this.tile << level;
    return image.tile(level, row, column, true, () => {
      if (image === this.image) this.draw([column * side, row * side, (column + 1) * side, (row + 1) * side]);
    });
  }

  paintTiles(context, level, load, box) {
    const side = this.tile << level;
    this.eachVisible(side, (row, column) => {
      const found = load ? this.seeTile(level, row, column) : this.image.tile(level, row, column, false);
      if (!found) return;
      context.drawImage(found, column * side, row * side, found.width << level, found.height << level);
    }, box);
  }

  paintOverlay(context, level, box) {
    const side = PART << level;
    this.eachVisible(side, (row, column) => {
      const part = this.part(level, row, column);
      context.drawImage(part.canvas, column * side, row * side, part.width << level, part.height << level);
    }, box);
  }

  has(image, level, row, column) {
    const found = this.parts.get([image.number, level, row, column].join("/"));
    return Boolean(found) && found.image === image && found.looks === this.looks && !found.stale;
  }

  // A piece of an image's overlay, up to date.
  part(level, row, column, image = this.image) {
    const key = [image.number, level, row, column].join("/");
    let found = this.parts.get(key);
    this.parts.delete(key);  // and to the end: the one that was used longest ago leaves first
    if (!found || found.image !== image) found = this.emptyPart(image, level, row, column);
    if (found.looks !== this.looks) found.stale = WHOLE;
    if (found.stale) this.fillPart(found);
    this.parts.set(key, found);
    if (this.parts.size > MOST_PARTS) this.parts.delete(this.parts.keys().next().value);
    return found;
  }

  emptyPart(image, level, row, column) {
    const step = 1 << level, canvas = document.createElement("canvas");
    const width = Math.min(PART, Math.ceil((image.width - column * PART * step) / step));
    const height = Math.min(PART, Math.ceil((image.height - row * PART * step) / step));
    [canvas.width, canvas.height] = [width, height];
    return {canvas, image, level, row, column, width, height, looks: this.looks, stale: WHOLE};
  }

  // Paint what is stale of a piece.
  fillPart(part) {
    const {width: wide, labels, prediction} = part.image;
    const step = 1 << part.level, left = part.column * PART * step, top = part.row * PART * step;
    const x0 = Math.max(0, Math.floor((part.stale[0] - left) / step));
    const y0 = Math.max(0, Math.floor((part.stale[1] - top) / step));
    const width = Math.min(part.width, Math.ceil((part.stale[2] - left) / step)) - x0;
    const height = Math.min(part.height, Math.ceil((part.stale[3] - top) / step)) - y0;
    [part.stale, part.looks] = [null, this.looks];
    if (width < 1 || height < 1) return;
    const data = new ImageData(width, height), pixels = new Uint32Array(data.data.buffer);
    const strong = this.shown !== "model" && labels ? lookup(this.colors, Math.min(1, this.opacity * 1.35)) : null;
    const weak = this.shown !== "labels" && prediction ? lookup(this.colors, this.opacity * .62) : null;
    const firstX = part.column * PART + x0, firstY = part.row * PART + y0;
    for (let y = 0, i = 0; y < height; y++) {
      let at = (firstY + y) * step * wide + firstX * step;
      for (let x = 0; x < width; x++, i++, at += step) {
        const label = strong ? labels[at] : UNLABELED;
        const shown = label !== UNLABELED ? label : weak ? prediction[at] : UNLABELED;
        if (shown === UNLABELED) continue;
        pixels[i] = label !== UNLABELED ? strong[shown] : weak[shown];
        if (this.hatch && hatched(shown, firstX + x, firstY + y)) pixels[i] = 0xd0000000;
      }
    }
    part.canvas.getContext("2d").putImageData(data, x0, y0);
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

// The box around two boxes, of which the first may be none.
function join(first, [left, top, right, bottom]) {
  if (!first) return [left, top, right, bottom];
  return [Math.min(first[0], left), Math.min(first[1], top), Math.max(first[2], right), Math.max(first[3], bottom)];
}

// What two boxes share, or null.
function cut(first, second) {
  const [left, top] = [Math.max(first[0], second[0]), Math.max(first[1], second[1])];
  const [right, bottom] = [Math.min(first[2], second[2]), Math.min(first[3], second[3])];
  return left < right && top < bottom ? [left, top, right, bottom] : null;
}
