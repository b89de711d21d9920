// Strokes on the page: kept, undone, done again, and what the server answers. Methods of the page.
import {decodeLabels} from "./masks.js";
import {randomId} from "./server.js";

const at = id => document.getElementById(id);

export const strokes = {
  // A tool has painted a region into the image's labels: keep it.
  finish(kind, label, region, before, clicks, question = null) {
    const image = this.image();
    this.keep({
      kind, class: label, box: region.box, runs: region.runs.join(" "), size: [image.height, image.width], clicks,
      question: question ? question.id : null,
    }, image.number, image);
    this.past.push({id: this.lastId, by: this.by, number: image.number, before, question});
    if (this.past.length > 300) this.past.shift();
    this.future = [];
    this.showShare();
    this.changed();
  },

  keep(stroke, number, image) {
    const now = performance.now();
    stroke.seconds = Math.min(300, (now - this.lastAct) / 1000);
    this.lastAct = now;
    this.lastId = stroke.id = randomId();
    this.outbox.push({by: this.by, ...stroke, number, image: image ? image.name : null});
  },

  undo() {
    if (this.tools.corners.length) return this.tools.dropCorner();
    this.tools.leave();
    const entry = this.past.pop();
    if (!entry) return this.announce("there is nothing to undo");
    this.revert("undo", entry);
    this.future.push(entry);
    if (entry.question) {
      this.questions.reopened(entry.question);
      this.questions.back(entry.question);
    }
    this.announce("undone");
    this.goBack(entry);
  },

  redo() {
    this.tools.leave();
    const entry = this.future.pop();
    if (!entry) return this.announce("there is nothing to redo");
    this.revert("redo", entry);
    this.past.push(entry);
    if (entry.question) {
      this.questions.answered(entry.question);
      if (this.questions.current === entry.question) this.questions.current = null;
    }
    this.announce("done again");
    if (entry.question) this.advance();
    else this.goBack(entry);
  },

  goBack(entry) {
    if (this.image()?.number !== entry.number) this.open(entry.number, entry.question || null);
    else this.showQuestion(this.questions.current);
    this.showShare();
    this.changed();
  },

  // Show it at once; what the server sends then is what holds.
  revert(kind, entry) {
    const image = this.images.get(entry.number)?.ready;
    if (image && entry.before) {
      const now = image.cut(entry.before.box);
      image.paste(entry.before.box, entry.before.labels);
      entry.before = {box: entry.before.box, labels: now};
      this.view.dirty(entry.before.box, image);
    }
    this.keep({kind, of: entry.id, by: entry.by, clicks: 0}, entry.number, image);  // also after a change of name
  },

  onKept(stroke, ack) {
    const image = this.images.get(stroke.number)?.ready;
    const names = Object.keys(ack.conflict || {});
    if (names.length) this.announce("this replaced labels of " + names.join(", "));
    if (!image || (stroke.image && image.name !== stroke.image)) return;
    for (const [over, pixels] of Object.entries(ack.conflict || {})) {
      image.conflicts.push({by: stroke.by, over, pixels});
    }
    const others = ack.revision > image.revision + 1;  // somebody else painted in the meantime
    image.revision = Math.max(image.revision, ack.revision);
    const waiting = this.outbox.waiting.some(one => one.number === stroke.number);
    if (waiting || this.tools.stroke) return;
    if (others) {
      this.refreshLabels(image);
    } else if (ack.patch) {
      const [left, top, right, bottom] = ack.patch.box;
      image.paste(ack.patch.box, decodeLabels(ack.patch.runs, (right - left) * (bottom - top)));
      this.view.dirty(ack.patch.box, image);
    }
    if (image === this.image()) this.showShare();
  },

  onRefused(stroke, error) {
    at("refused").hidden = false;
    at("refused").textContent = "A stroke was refused and is not kept.\n" + error.lines.join("\n");
    this.past = this.past.filter(one => one.id !== stroke.id);
    const image = this.images.get(stroke.number)?.ready;
    if (image) this.refreshLabels(image);
  },

};
