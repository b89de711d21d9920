// The tools: brush, eraser, polygon, fill, by mouse, pen, one finger or keyboard. Two fingers move and zoom.
import {eachRun, eachRowOfLine, eachRowOfPolygon, flood, regionOf, UNLABELED} from "./masks.js";

const NEAR = 12;  // screen pixels: a click this near to the first corner closes a polygon
const PAINTING = ["brush", "eraser"];

export class Tools {
  // app: image(), label(), announce(text), finish(kind, label, region, before, clicks), changed()
  constructor(view, app) {
    this.view = view;
    this.app = app;
    this.name = "answer";
    this.size = 24;  // diameter of the brush in screen pixels
    this.cross = null;  // the keyboard's place, in image coordinates
    this.mouse = null;
    this.corners = [];
    this.stroke = null;
    this.penDown = false;
    this.pointers = new Map();
    view.drawTool = (context, zoom) => this.draw(context, zoom);
    const stage = view.stage;
    stage.addEventListener("pointerdown", event => this.down(event));
    stage.addEventListener("pointermove", event => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, event => this.up(event));
    stage.addEventListener("pointerleave", () => { this.mouse = null; view.drawTop(); });
    stage.addEventListener("dblclick", event => event.preventDefault());
    stage.addEventListener("contextmenu", event => event.preventDefault());
    stage.addEventListener("wheel", event => {
      event.preventDefault();
      const [x, y] = this.place(event);
      view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? .05 : .0016)), x, y);
    }, {passive: false});
  }

  choose(name) {
    this.leave();
    this.name = name;
    this.view.stage.dataset.tool = name;
    this.app.changed();
    this.view.drawTop();
  }

  // Give up what is begun: a polygon's corners; a stroke is finished.
  leave() {
    if (this.penDown) this.togglePen();
    this.corners = [];
    this.view.drawTop();
  }

  radius() {
    return Math.max(.5, this.size / 2 / this.view.scale);
  }

  resize(factor) {
    this.size = Math.max(2, Math.min(240, Math.round(this.size * factor)));
    this.app.changed();
    this.view.drawTop();
  }

  place(event) {
    const frame = this.view.stage.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  // ---- pointers

  down(event) {
    if (!this.app.image()) return;
    this.view.stage.focus({preventScroll: true});
    this.view.stage.setPointerCapture(event.pointerId);
    const [x, y] = this.place(event);
    this.pointers.set(event.pointerId, [x, y]);
    if (this.pointers.size === 2) {  // the second finger: what the first one began was no stroke
      this.cancelStroke();
      this.pinch = this.fingers();
      return;
    }
    if (this.pointers.size > 2) return;
    const panning = event.button === 1 || event.button === 2 || this.name === "answer" || event.altKey;
    if (panning) {
      this.panning = [x, y];
      return;
    }
    const point = this.view.toImage(x, y);
    this.cross = null;
    if (PAINTING.includes(this.name)) this.beginStroke(point);
    this.pressed = {x, y, shift: event.shiftKey};
  }

  move(event) {
    const [x, y] = this.place(event);
    this.mouse = event.pointerType === "touch" && !this.pointers.size ? null : [x, y];
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, [x, y]);
    if (this.pinch && this.pointers.size === 2) {
      const now = this.fingers();
      this.view.pan(now.x - this.pinch.x, now.y - this.pinch.y);
      this.view.zoom(now.apart / this.pinch.apart, now.x, now.y);
      this.pinch = now;
    } else if (this.panning) {
      this.view.pan(x - this.panning[0], y - this.panning[1]);
      this.panning = [x, y];
    } else if (this.stroke && !this.penDown) {
      const every = event.getCoalescedEvents ? event.getCoalescedEvents() : [event];
      for (const one of every.length ? every : [event]) this.extendStroke(this.view.toImage(...this.place(one)));
    }
    this.view.drawTop();
  }

  up(event) {
    const [x, y] = this.place(event);
    this.pointers.delete(event.pointerId);
    this.panning = null;
    if (this.pinch) {
      if (!this.pointers.size) this.pinch = null;
      this.pressed = null;
      return;
    }
    if (event.type === "pointercancel") {
      this.cancelStroke();
    } else if (this.stroke && !this.penDown) {
      this.endStroke();
    } else if (this.pressed && Math.hypot(x - this.pressed.x, y - this.pressed.y) < 8) {
      const point = this.view.toImage(x, y);
      if (this.name === "polygon") this.corner(point);
      if (this.name === "fill") this.fill(point, this.pressed.shift);
    }
    this.pressed = null;
    if (event.pointerType === "touch") this.mouse = null;
  }

  fingers() {
    const [[ax, ay], [bx, by]] = [...this.pointers.values()];
    return {x: (ax + bx) / 2, y: (ay + by) / 2, apart: Math.max(1, Math.hypot(ax - bx, ay - by))};
  }

  // ---- brush and eraser

  beginStroke(point) {
    const image = this.app.image();
    const label = this.name === "eraser" ? UNLABELED : this.app.label();
    if (label === null) return;
    image.needScratch();
    this.stroke = {image, label, kind: this.name, last: point, box: null, radius: this.radius()};
    this.extendStroke(point);
  }

  extendStroke(point) {
    const {image, label, last, radius} = this.stroke;
    const {width, height, labels, scratch, original} = image;
    let box = null;
    eachRowOfLine(last[0], last[1], point[0], point[1], radius, height, width, (y, x0, x1) => {
      for (let i = y * width + x0, end = y * width + x1; i < end; i++) {
        if (scratch[i]) continue;
        scratch[i] = 1;
        original[i] = labels[i];
        labels[i] = label;
      }
      box = join(box, [x0, y, x1, y + 1]);
    });
    this.stroke.last = point;
    if (box) {
      this.stroke.box = join(this.stroke.box, box);
      this.view.dirty(box);
    }
  }

  endStroke() {
    const {image, label, kind, box} = this.stroke;
    this.stroke = null;
    if (!box) return;
    const region = regionOf(image.scratch, image.width, box);
    const before = image.cut(box, true);
    image.clearScratch(box);
    this.app.finish(kind, label, region, {box, labels: before}, 1);
  }

  cancelStroke() {
    if (!this.stroke) return;
    const {image, box} = this.stroke;
    this.stroke = null;
    this.penDown = false;
    if (!box) return;
    image.paste(box, image.cut(box, true));
    image.clearScratch(box);
    this.view.dirty(box);
  }

  togglePen() {
    if (this.penDown) {
      this.penDown = false;
      this.endStroke();
      this.app.announce("pen up");
    } else {
      this.beginStroke(this.crossPlace());
      this.penDown = Boolean(this.stroke);
      this.app.announce(this.penDown ? "pen down" : "choose a class first");
    }
    this.view.drawTop();
  }

  // ---- regions at once

  // Paints rows that draw(set) gives, as one stroke.
  paintRows(kind, label, clicks, draw, question = null) {
    const image = this.app.image();
    const {width, scratch} = image.needScratch();
    let box = null;
    draw((y, x0, x1) => {
      scratch.fill(1, y * width + x0, y * width + x1);
      box = join(box, [x0, y, x1, y + 1]);
    });
    if (!box) return false;
    const before = image.cut(box);
    const region = regionOf(scratch, width, box);
    for (let y = box[1]; y < box[3]; y++) {
      for (let i = y * width + box[0], end = y * width + box[2]; i < end; i++) {
        if (scratch[i]) image.labels[i] = label;
      }
    }
    image.clearScratch(box);
    this.view.dirty(box);
    this.app.finish(kind, label, region, {box, labels: before}, clicks, question);
    return true;
  }

  corner(point) {
    if (this.app.label() === null) return this.app.announce("choose a class first");
    const first = this.corners[0];
    if (first && this.corners.length > 2) {
      const [ax, ay] = this.view.fromImage(...first), [bx, by] = this.view.fromImage(...point);
      if (Math.hypot(ax - bx, ay - by) < NEAR) return this.closePolygon();
    }
    this.corners.push(point);
    this.app.announce(this.corners.length + (this.corners.length > 1 ? " corners" : " corner"));
    this.view.drawTop();
  }

  dropCorner() {
    this.corners.pop();
    this.view.drawTop();
  }

  closePolygon() {
    if (this.corners.length < 3) return this.app.announce("a polygon needs three corners");
    const {height, width} = this.app.image(), corners = this.corners;
    this.corners = [];
    const painted = this.paintRows("polygon", this.app.label(), corners.length,
      set => eachRowOfPolygon(corners, height, width, set));
    if (!painted) this.app.announce("the polygon holds no pixel");
  }

  async fill(point, segment) {
    const image = this.app.image(), label = this.app.label();
    const x = Math.floor(point[0]), y = Math.floor(point[1]);
    if (label === null) return this.app.announce("choose a class first");
    if (x < 0 || y < 0 || x >= image.width || y >= image.height) return;
    const values = segment ? image.prediction : await image.loadUnits();
    if (this.app.image() !== image) return;
    if (!values) return this.app.announce(segment ? "there is no model's segment" : "the superpixels are not there yet");
    const {scratch, width} = image.needScratch();
    const box = flood(values, scratch, image.height, width, x, y);
    const region = regionOf(scratch, width, box);
    image.clearScratch(box);
    this.paintRows("fill", label, 1, set => eachRun(region, set));
  }

  // ---- keyboard

  crossPlace() {
    if (!this.cross) {
      const [x, y] = this.mouse || [this.view.width / 2, this.view.height / 2];
      this.cross = this.view.toImage(x, y);
    }
    return this.cross;
  }

  moveCross(dx, dy, far) {
    const image = this.app.image();
    if (!image) return;
    const step = Math.max(1, (far ? 40 : 4) / this.view.scale), [x, y] = this.crossPlace();
    this.cross = [Math.max(0, Math.min(image.width - .01, x + dx * step)),
      Math.max(0, Math.min(image.height - .01, y + dy * step))];
    if (this.penDown) this.extendStroke(this.cross);
    const [sx, sy] = this.view.fromImage(...this.cross), edge = 30;
    if (sx < edge || sy < edge || sx > this.view.width - edge || sy > this.view.height - edge) {
      this.view.lookAt(...this.cross);
    }
    this.app.under(Math.floor(this.cross[0]), Math.floor(this.cross[1]));
    this.view.drawTop();
  }

  act(shift) {
    if (PAINTING.includes(this.name)) this.togglePen();
    else if (this.name === "polygon") this.corner([...this.crossPlace()]);
    else if (this.name === "fill") this.fill(this.crossPlace(), shift);
    else return false;
    return true;
  }

  // ---- what is seen

  draw(context, zoom) {
    const thin = 1.5 / zoom;
    if (this.corners.length) {
      const [mx, my] = this.mouse ? this.view.toImage(...this.mouse) : this.cross || this.corners.at(-1);
      for (const [color, width] of [["#000", 4 / zoom], ["#fff", 2 / zoom]]) {
        context.strokeStyle = color;
        context.lineWidth = width;
        context.beginPath();
        this.corners.forEach(([x, y]) => context.lineTo(x, y));
        context.lineTo(mx, my);
        context.stroke();
      }
      context.fillStyle = "#fff";
      for (const [x, y] of this.corners) context.fillRect(x - 3 / zoom, y - 3 / zoom, 6 / zoom, 6 / zoom);
    }
    const at = this.cross || (this.mouse && PAINTING.includes(this.name) && this.view.toImage(...this.mouse));
    if (!at) return;
    for (const [color, width] of [["#000", 3 * thin], ["#fff", thin]]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.beginPath();
      if (PAINTING.includes(this.name)) context.arc(at[0], at[1], this.radius(), 0, 2 * Math.PI);
      if (this.cross) {
        const long = 12 / zoom, gap = 3 / zoom;
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          context.moveTo(at[0] + dx * gap, at[1] + dy * gap);
          context.lineTo(at[0] + dx * long, at[1] + dy * long);
        }
      }
      context.stroke();
    }
  }
}

export function join(one, other) {
  if (!one) return [...other];
  return [Math.min(one[0], other[0]), Math.min(one[1], other[1]), Math.max(one[2], other[2]), Math.max(one[3], other[3])];
}
