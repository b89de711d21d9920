// Strokes on their way to the disk. Each is in this browser's storage before it is sent, and leaves it when the server
// has acknowledged it, so that neither a full disk there nor a crash here loses one.
import {postJson, ServerError} from "./server.js";

const REFUSED = [400, 404, 413, 415];  // sending it again would not help
const WAITS = [1000, 2000, 4000, 8000, 15000];

export class Outbox {
  // handlers: kept(stroke, ack), refused(stroke, error), changed()
  constructor(folder, handlers) {
    this.prefix = "segwright-label:" + folder + ":";
    this.handlers = handlers;
    this.waiting = [];
    this.problem = null;  // ServerError of the last try
    this.unstored = 0;  // strokes that the browser's storage could not hold
    this.sending = false;
    this.failures = 0;
    this.adopt();
  }

  // Strokes that an earlier page left, oldest first.
  adopt() {
    const found = [];
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const key = localStorage.key(i);
        if (key.startsWith(this.prefix)) found.push(JSON.parse(localStorage.getItem(key)));
      }
    } catch { /* no storage: strokes wait in this page alone */ }
    this.waiting = found.filter(one => one && one.id).sort((a, b) => a.order - b.order);
  }

  push(stroke) {
    stroke.order = Date.now() + this.waiting.length / 1000;
    try {
      localStorage.setItem(this.prefix + stroke.id, JSON.stringify(stroke));
    } catch {
      this.unstored++;
    }
    this.waiting.push(stroke);
    this.handlers.changed();
    this.send();
  }

  drop(stroke) {
    this.waiting = this.waiting.filter(one => one.id !== stroke.id);
    try {
      localStorage.removeItem(this.prefix + stroke.id);
    } catch { /* as above */ }
    if (!this.waiting.length) this.unstored = 0;
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    try {
      while (this.waiting.length && await this.sendFirst()) this.handlers.changed();
    } finally {
      this.sending = false;
    }
    this.handlers.changed();
  }

  // Whether to go on with the next one.
  async sendFirst() {
    const stroke = this.waiting[0];
    let ack;
    try {
      ack = await postJson("api/strokes", stroke);
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      if (!REFUSED.includes(error.status)) {
        this.problem = error;
        this.timer = setTimeout(() => this.send(), WAITS[Math.min(this.failures++, WAITS.length - 1)]);
        return false;
      }
      this.drop(stroke);
      this.handlers.refused(stroke, error);
      return true;
    }
    this.failures = 0;
    this.problem = null;
    this.drop(stroke);
    this.handlers.kept(stroke, ack);
    return true;
  }
}
