// The image with the classes or the uncertainty over it: opacity, border, zoom, cross hair.
import {hatched} from "./colors.js";

const CIVIDIS = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120],
  [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]];  // Nuñez et al. 2018, for color-blind readers
const MOST_PIXELS = 4e6;  // drawn; larger images are sampled
const MOST_HEIGHT = .56;  // of the window
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const packed = ([red, green, blue], alpha) => (Math.round(255 * alpha) << 24 | blue << 16 | green << 8 | red) >>> 0;

export function ramp(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  return CIVIDIS[low].map((value, i) => Math.round(value + (at - low) * (CIVIDIS[low + 1][i] - value)));
}

export class Stage {
  // at(id): an element of the page; readout(text) is called with what lies under the pointer or the cross hair.
  constructor(at, readout) {
    Object.assign(this, {at, readout, labels: null, doubt: null, colors: [], names: [], hidden: new Set()});
    Object.assign(this, {view: "classes", opacity: .55, hatch: false, emphasis: null, bare: false, zoom: 1});
    Object.assign(this, {comparing: false, border: .5, cross: null, waiting: false});
    this.frame = at("stage");
    addEventListener("resize", () => this.fit());
    at("image").addEventListener("error", () => this.setBare(true));
    at("image").addEventListener("load", () => this.fit());
    this.frame.addEventListener("pointerdown", event => this.grab(event));
    this.frame.addEventListener("pointermove", event => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) this.frame.addEventListener(name, () => { this.held = null; });
    this.frame.addEventListener("pointerleave", () => this.readout(""));
    this.frame.addEventListener("keydown", event => this.press(event));
  }

  // labels and doubt as png.js decodes them; doubt is null until it is known.
  show(url, labels, doubt) {
    Object.assign(this, {labels, doubt, cross: null, emphasis: null});
    this.at("cross").hidden = this.at("box").hidden = true;
    this.setBare(false);
    this.at("image").src = url;
    this.setZoom(1);
    this.paint();
  }

  setBare(bare) {
    this.bare = bare;
    this.at("image").hidden = bare;
    this.at("unseen").hidden = !bare;
    this.fit();
    this.paint();
  }

  // The width at which the whole image is visible, times the zoom.
  fit() {
    if (!this.labels) return;
    const {width, height} = this.labels;
    const whole = Math.min(this.frame.clientWidth, MOST_HEIGHT * innerHeight * width / height);
    this.at("sheet").style.width = Math.round(whole * this.zoom) + "px";
    this.at("wipe-row").style.width = Math.round(Math.min(whole * this.zoom, this.frame.clientWidth)) + "px";
    this.at("sheet").style.aspectRatio = width + " / " + height;
    this.placeBorder();
  }

  setZoom(zoom, [x, y] = [.5, .5]) {
    this.zoom = zoom;
    this.fit();
    this.frame.dataset.zoomed = zoom > 1;
    this.at("scale").textContent = zoom + "\u00d7";
    this.at("out").disabled = zoom === ZOOMS[0];
    this.at("in").disabled = zoom === ZOOMS.at(-1);
    const sheet = this.at("sheet");
    this.frame.scrollTo(x * sheet.offsetWidth - this.frame.clientWidth / 2, y * sheet.offsetHeight - this.frame.clientHeight / 2);
  }

  zoomBy(step) {
    const sheet = this.at("sheet");
    const middle = [(this.frame.scrollLeft + this.frame.clientWidth / 2) / sheet.offsetWidth,
      (this.frame.scrollTop + this.frame.clientHeight / 2) / sheet.offsetHeight];
    const place = Math.min(Math.max(ZOOMS.indexOf(this.zoom) + step, 0), ZOOMS.length - 1);
    this.setZoom(ZOOMS[place], this.cross ? [this.cross.x, this.cross.y] : middle);
  }

  // Draw at most once per frame.
  paint() {
    if (this.waiting || !this.labels) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const {width, height, values} = this.labels;
    const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
    const canvas = this.at("over");
    const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const context = canvas.getContext("2d");
    const target = context.createImageData(w, h);
    const pixels = new Uint32Array(target.data.buffer);
    if (this.view === "doubt" && this.doubt) this.fillDoubt(pixels, w, h);
    else if (this.view === "classes") this.fillClasses(pixels, values, width, height, w, h);
    context.putImageData(target, 0, 0);
    this.placeBorder();
    this.frame.dataset.drawn = this.view;
  }

  fillDoubt(pixels, w, h) {
    const {width, height, values} = this.doubt;
    const alpha = this.bare ? 1 : this.opacity;
    const table = Uint32Array.from({length: 256}, (_, value) => packed(ramp(value / 255), alpha));
    for (let y = 0, to = 0; y < h; y++) {
      const row = Math.floor((y + .5) * height / h) * width;
      for (let x = 0; x < w; x++, to++) pixels[to] = table[values[row + Math.floor((x + .5) * width / w)]];
    }
  }

  // A class is filled with its color and its border is drawn stronger.
  fillClasses(pixels, values, width, height, w, h) {
    const base = this.bare ? 1 : this.opacity;
    const strength = label => this.hidden.has(label) ? 0 : this.emphasis === null || this.emphasis === label ? base : .2 * base;
    const clear = new Uint32Array(256), strong = new Uint32Array(256), dark = new Uint32Array(256);
    this.colors.forEach((color, label) => {
      const alpha = strength(label);
      clear[label] = packed(color, alpha);
      strong[label] = packed(color.map(value => value * .75), Math.min(1, 1.6 * alpha));
      dark[label] = packed(color.map(value => value * .35), Math.min(1, 1.2 * alpha));
    });
    const columns = Uint32Array.from({length: w + 1}, (_, x) => Math.min(width - 1, Math.floor((x + .5) * width / w)));
    for (let y = 0, to = 0; y < h; y++) {
      const row = Math.floor((y + .5) * height / h) * width;
      const below = Math.min(height - 1, Math.floor((y + 1.5) * height / h)) * width;
      for (let x = 0; x < w; x++, to++) {
        const label = values[row + columns[x]];
        const edge = label !== values[row + columns[x + 1]] || label !== values[below + columns[x]];
        pixels[to] = edge ? strong[label] : this.hatch && hatched(label, x, y) ? dark[label] : clear[label];
      }
    }
  }

  // What is drawn now, over the image, in the size of the drawing.
  async overlay() {
    const over = this.at("over");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [over.width, over.height];
    const context = canvas.getContext("2d");
    if (!this.bare) context.drawImage(this.at("image"), 0, 0, canvas.width, canvas.height);
    context.drawImage(over, 0, 0);
    return new Promise(resolve => canvas.toBlob(resolve, "image/png"));
  }

  setBorder(share) {
    this.border = share;
    this.at("wipe").value = 100 * share;
    this.placeBorder();
  }

  placeBorder() {
    const at = 100 * this.border + "%";
    this.at("over").style.clipPath = this.comparing ? "inset(0 0 0 " + at + ")" : "";
    this.at("edge").hidden = !this.comparing;
    this.at("edge").style.left = at;
  }

  setComparing(on) {
    this.comparing = on;
    this.frame.dataset.comparing = on;
    this.at("wipe-row").hidden = !on;
    this.placeBorder();
  }

  placeOf(event) {
    const edge = this.at("sheet").getBoundingClientRect();
    return {x: (event.clientX - edge.left) / edge.width, y: (event.clientY - edge.top) / edge.height};
  }

  grab(event) {
    if (event.button || !this.labels) return;
    if (this.comparing) {
      this.held = "border";
      this.move(event);
    } else if (event.pointerType === "mouse" && this.zoom > 1) {
      this.held = {x: event.clientX + this.frame.scrollLeft, y: event.clientY + this.frame.scrollTop};
    } else {
      this.lookAt(this.placeOf(event));
      return;
    }
    this.frame.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.labels) return;
    const place = this.placeOf(event);
    if (this.held === "border") this.setBorder(Math.min(Math.max(place.x, 0), 1));
    else if (this.held) this.frame.scrollTo(this.held.x - event.clientX, this.held.y - event.clientY);
    else this.lookAt(place);
  }

  // The class and the uncertainty at a place in 0…1.
  lookAt({x, y}) {
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return this.readout("");
    const {width, height, values} = this.labels;
    const [column, row] = [Math.floor(x * width), Math.floor(y * height)];
    const name = this.names[values[row * width + column]] ?? "no class";
    const doubt = this.doubt ? ", uncertainty " + Math.round(this.doubtAt(x, y) * 100) + " %" : "";
    this.readout(name + doubt + " at " + column + ", " + row);
  }

  doubtAt(x, y) {
    const {width, height, values} = this.doubt;
    return values[Math.floor(y * height) * width + Math.floor(x * width)] / 255;
  }

  press(event) {
    if (!this.labels || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    if (event.key in arrows) this.moveCross(arrows[event.key], event.shiftKey ? 20 : 2);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1);
    else if (event.key === "-") this.zoomBy(-1);
    else return;
    event.preventDefault();
  }

  moveCross([dx, dy], steps) {
    const clamp = value => Math.min(Math.max(value, 0), .999);
    const {x, y} = this.cross || {x: .5, y: .5};
    this.cross = {x: clamp(x + dx * steps / 200), y: clamp(y + dy * steps / 200)};
    const cross = this.at("cross");
    cross.hidden = false;
    cross.style.left = 100 * this.cross.x + "%";
    cross.style.top = 100 * this.cross.y + "%";
    const sheet = this.at("sheet");
    if (this.zoom > 1) {
      this.frame.scrollTo(this.cross.x * sheet.offsetWidth - this.frame.clientWidth / 2,
        this.cross.y * sheet.offsetHeight - this.frame.clientHeight / 2);
    }
    this.lookAt(this.cross);
  }

  // A frame around a region: left, top, width, height in pixels.
  outline([left, top, width, height]) {
    const box = this.at("box");
    const {width: w, height: h} = this.labels;
    box.style.left = 100 * left / w + "%";
    box.style.top = 100 * top / h + "%";
    box.style.width = 100 * width / w + "%";
    box.style.height = 100 * height / h + "%";
    box.hidden = false;
    if (this.zoom > 1) this.setZoom(this.zoom, [(left + width / 2) / w, (top + height / 2) / h]);
    this.frame.scrollIntoView({block: "nearest"});
  }
}
