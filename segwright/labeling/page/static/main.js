// The label page: one image at a time, the next question outlined, answers and strokes kept at once.
import {palette} from "./colors.js";
import {LabelImage} from "./image.js";
import {listen} from "./keys.js";
import {countPixels, decodeLabels, eachRun, outline, UNLABELED} from "./masks.js";
import {Outbox} from "./outbox.js";
import * as panel from "./panel.js";
import {Questions} from "./questions.js";
import {beacon, getJson, postJson, ServerError} from "./server.js";
import {Tools} from "./tools.js";
import {View} from "./view.js";

const at = id => document.getElementById(id);
const AHEAD = 3, KEPT = 6;  // images loaded ahead, and kept
const PRESENCE = 4000;  // milliseconds
const SHOWN = ["both", "labels", "model", "image"];
const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), byte => byte.toString(16).padStart(2, "0")).join("");

class App {
  async start() {
    this.page = randomId();
    this.state = await getJson("api/state");
    this.classes = this.state.classes;
    this.own = stored("own-colors", "no") === "yes";
    this.colors = palette(this.classes, this.own);
    this.by = stored("name", "") || "annotator " + this.page.slice(0, 3);
    store("name", this.by);
    this.label_ = null;
    this.past = [];  // what undo takes back, on any image
    this.future = [];
    this.images = new Map();  // number → promise of a LabelImage
    this.shown = "both";
    this.lastAct = performance.now();
    this.view = new View(at("stage"), at("base"), at("top"), this.state.tile);
    this.view.setColors(this.colors);
    this.tools = new Tools(this.view, this);
    this.questions = new Questions(() => ({by: this.by, page: this.page}), () => this.onQuestions());
    this.outbox = new Outbox(this.state.key, {
      kept: (stroke, ack) => this.onKept(stroke, ack),
      refused: (stroke, error) => this.onRefused(stroke, error),
      changed: () => {
        document.body.dataset.waiting = this.outbox.waiting.length;
        panel.showSaved(this.outbox, this.unwritten);
      },
    });
    panel.fillClasses(this.classes, this.colors, index => this.chooseClass(index));
    at("name").textContent = this.by;
    this.wire();
    listen(this);
    this.changed();
    this.showState(this.state);
    this.outbox.send();
    this.questions.refill();
    setInterval(() => this.presence(), PRESENCE);
    window.labelPage = this;  // for tests, as are the data attributes of the body
  }

  image() {
    return this.view.image;
  }

  label() {
    return this.label_;
  }

  announce(text) {
    panel.announce(text);
  }

  wire() {
    const click = (id, act) => at(id).addEventListener("click", act);
    click("right", () => this.answerRight());
    click("skip", () => this.skip());
    click("look", () => this.goToQuestion());
    click("undo", () => this.undo());
    click("redo", () => this.redo());
    click("zoom-in", () => this.view.zoom(1.4));
    click("zoom-out", () => this.view.zoom(1 / 1.4));
    click("whole", () => this.view.fit());
    click("next", () => this.goTo(1));
    click("previous", () => this.goTo(-1));
    click("list", () => this.openList());
    click("help", () => this.openHelp());
    click("train", () => this.train());
    click("name", () => this.openName());
    click("close-polygon", () => this.tools.closePolygon());
    for (const button of document.querySelectorAll("button[data-tool]")) {
      button.addEventListener("click", () => this.tools.choose(button.dataset.tool));
    }
    for (const button of document.querySelectorAll("dialog .close")) {
      button.addEventListener("click", () => button.closest("dialog").close());
    }
    at("size").addEventListener("input", () => this.tools.resize(at("size").value / this.tools.size));
    at("opacity").addEventListener("input", () => this.setOpacity(at("opacity").value / 100));
    at("shown").addEventListener("change", () => this.show(at("shown").value));
    at("hatch").addEventListener("change", () => this.toggleHatch());
    at("own").checked = this.own;
    at("own").addEventListener("change", () => this.toggleOwn());
    at("filter").addEventListener("input", () => panel.filterClasses(at("filter").value));
    at("filter").addEventListener("keydown", event => this.onFilterKey(event));
    at("name-form").addEventListener("submit", event => this.onName(event));
    at("list-filter").addEventListener("input", () => this.fillList());
    addEventListener("pagehide", () => beacon("api/presence", {by: this.by, page: this.page, leaving: true}));
    addEventListener("beforeunload", event => { if (this.outbox.unstored) event.preventDefault(); });
    addEventListener("online", () => this.outbox.send());
  }

  // ---- images

  load(number) {
    let found = this.images.get(number);
    if (!found) {
      found = LabelImage.load(number);
      found.then(image => { found.ready = image; this.replay(image); }, () => this.images.delete(number));
      this.images.set(number, found);
      const spare = [...this.images.keys()].filter(key => key !== this.image()?.number &&
        !this.questions.upcoming().slice(0, AHEAD).includes(key) && key !== number);
      while (this.images.size > KEPT && spare.length) this.images.delete(spare.shift());
    }
    return found;
  }

  // Strokes that wait for the server are not in what it sent.
  replay(image) {
    for (const stroke of this.outbox.waiting) {
      if (stroke.image === image.name && stroke.runs) {
        paintRegion(image, {box: stroke.box, runs: stroke.runs.split(" ").map(Number)}, stroke.class);
      }
    }
  }

  async open(number, question = null) {
    this.tools.leave();
    this.wanted = number;
    const coming = this.load(number);
    if (coming.ready) {
      this.showImage(coming.ready, question);
      return;
    }
    at("stage").setAttribute("aria-busy", "true");
    try {
      const image = await coming;
      if (this.wanted === number) this.showImage(image, question);
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      if (this.wanted === number) this.showUnreadable(number, error, question);
    }
  }

  showImage(image, question) {
    at("stage").removeAttribute("aria-busy");
    at("unreadable").hidden = true;
    this.tools.cross = null;
    this.view.outline = null;
    this.view.show(image);
    this.showQuestion(question && question.number === image.number ? question : null);
    this.showShare();
    at("stage").setAttribute("aria-label", "Image " + image.name + ", " + image.width + " by " + image.height);
    this.presence();
    if (image.version !== this.state.version) this.refreshPrediction(image);
  }

  showUnreadable(number, error, question) {
    at("stage").removeAttribute("aria-busy");
    this.view.image = null;
    this.view.draw();
    at("unreadable").hidden = false;
    at("unreadable").textContent = "This image cannot be shown.\n" + error.lines.join("\n");
    at("image-place").textContent = number + 1 + " of " + this.state.images;
    at("image-name").textContent = "";
    this.unreadable = number;
    if (question) this.skip();
  }

  showShare() {
    const image = this.image();
    if (!image) return;
    let labeled = 0;
    const step = Math.max(1, Math.floor(image.count / 100000));
    for (let i = 0; i < image.count; i += step) labeled += image.labels[i] !== UNLABELED;
    panel.showImage(image, this.state.images, labeled / Math.ceil(image.count / step));
  }

  goTo(step) {
    const here = this.image() ? this.image().number : this.unreadable ?? 0;
    const number = here + step;
    if (number < 0 || number >= this.state.images) return this.announce("there is no further image");
    this.open(number);
  }

  async refreshPrediction(image) {
    await image.loadPrediction();
    if (this.image() === image) this.view.dirtyAll();
  }

  async refreshLabels(image) {
    await image.loadLabels();
    this.replay(image);
    if (this.image() === image) {
      this.view.dirtyAll();
      this.showShare();
    }
  }

  // ---- questions

  onQuestions() {
    for (const number of [...new Set(this.questions.upcoming())].slice(0, AHEAD)) this.load(number).catch(() => {});
    if (!this.questions.current && !this.resting) this.advance();
    else if (this.questions.failed) this.showQuestion(this.questions.current);
  }

  advance() {
    const question = this.questions.next();
    if (!question) {
      if (!this.image() && this.questions.ended) this.open(0);
      this.showQuestion(null);
      return;
    }
    if (this.image() && this.image().number === question.number) this.showQuestion(question);
    else this.open(question.number, question);
  }

  showQuestion(question) {
    const image = this.image();
    const here = question && image && question.number === image.number;
    this.view.outline = here ? outline(question) : null;
    if (here) {
      this.view.lookAtBox(question.box);
      const share = countPixels(question) / image.count;
      const note = "The outlined region, " + (100 * share).toFixed(share < .01 ? 2 : 1) + " % of the image" +
        (question.random ? "; drawn at random, as a control" : "");
      panel.showQuestion(question, this.classes, this.colors, note);
      this.announce((question.predicted === null ? "Which class is the outlined region?"
        : "Is the outlined region " + this.classes[question.predicted].name + "?"));
    } else {
      const other = this.questions.current ? "The next question is on another image: press G." : null;
      const none = this.questions.failed ? "No questions: " + this.questions.failed.lines[0]
        : this.questions.ended ? "Every question is answered. Paint, or choose an image." : "The next question is being made\u2026";
      panel.showQuestion(null, this.classes, this.colors, other || none);
      at("look").hidden = !this.questions.current;
    }
    document.body.dataset.image = image ? image.number : "";
    document.body.dataset.asked = here ? question.id : "";
    this.view.draw();
  }

  goToQuestion() {
    const question = this.questions.current;
    if (!question) return this.questions.ended ? this.announce("there is no question") : this.advance();
    if (this.image() && this.image().number === question.number) {
      this.showQuestion(question);
      this.view.lookAtBox(question.box);
    } else {
      this.open(question.number, question);
    }
  }

  hereAsked() {
    const question = this.questions.current;
    return question && this.image() && question.number === this.image().number ? question : null;
  }

  answerRight() {
    const question = this.hereAsked();
    if (!question) return this.announce("there is no question on this image");
    if (question.predicted === null) return this.announce("choose the class of the outlined region");
    this.answer(question.predicted);
  }

  answer(label) {
    const question = this.hereAsked();
    if (!question) return this.announce("there is no question on this image: choose a brush to paint");
    this.tools.leave();
    this.questions.answered(question);
    const region = {box: question.box, runs: question.runs}, image = this.image();
    const before = image.cut(question.box);
    paintRegion(image, region, label);
    this.view.dirty(question.box);
    this.finish("answer", label, region, {box: question.box, labels: before}, 1, question);
    this.announce(this.classes[label].name);
    this.advance();
  }

  skip() {
    const question = this.questions.current;
    if (!question) return this.announce("there is no question");
    this.questions.answered(question);
    const image = this.images.get(question.number)?.ready;
    this.keep({kind: "skip", question: question.id, clicks: 0}, question.number, image);
    this.past.push({id: this.lastId, number: question.number, question});
    this.future = [];
    this.advance();
  }

  // ---- strokes

  // A tool has painted a region into the image's labels: keep it.
  finish(kind, label, region, before, clicks, question = null) {
    const image = this.image();
    this.keep({
      kind, class: label, box: region.box, runs: region.runs.join(" "), size: [image.height, image.width], clicks,
      question: question ? question.id : null,
    }, image.number, image);
    this.past.push({id: this.lastId, number: image.number, before, question});
    if (this.past.length > 300) this.past.shift();
    this.future = [];
    this.showShare();
    this.changed();
  }

  keep(stroke, number, image) {
    const now = performance.now();
    stroke.seconds = Math.min(300, (now - this.lastAct) / 1000);
    this.lastAct = now;
    this.lastId = stroke.id = randomId();
    this.outbox.push({...stroke, by: this.by, number, image: image ? image.name : null});
  }

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
  }

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
  }

  goBack(entry) {
    if (this.image()?.number !== entry.number) this.open(entry.number, entry.question || null);
    else this.showQuestion(this.questions.current);
    this.showShare();
    this.changed();
  }

  // Show it at once; what the server sends then is what holds.
  revert(kind, entry) {
    const image = this.images.get(entry.number)?.ready;
    if (image && entry.before) {
      const now = image.cut(entry.before.box);
      image.paste(entry.before.box, entry.before.labels);
      entry.before = {box: entry.before.box, labels: now};
      if (image === this.image()) this.view.dirty(entry.before.box);
    }
    this.keep({kind, of: entry.id, clicks: 0}, entry.number, image);
  }

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
      if (image === this.image()) this.view.dirty(ack.patch.box);
    }
    if (image === this.image()) this.showShare();
  }

  onRefused(stroke, error) {
    at("refused").hidden = false;
    at("refused").textContent = "A stroke was refused and is not kept.\n" + error.lines.join("\n");
    this.past = this.past.filter(one => one.id !== stroke.id);
    const image = this.images.get(stroke.number)?.ready;
    if (image) this.refreshLabels(image);
  }

  // ---- classes, tools, looks

  chooseClass(index) {
    if (index >= this.classes.length) return this.announce("there are " + this.classes.length + " classes");
    this.label_ = index;
    if (this.tools.name === "answer") this.answer(index);
    else if (this.tools.name === "eraser") this.tools.choose("brush");
    this.changed();
    if (this.tools.name !== "answer") this.announce(this.classes[index].name);
  }

  changed() {
    panel.showTools(this.tools, this.shown, this.view.opacity, this.view.hatch);
    panel.showChosen(this.label_, this.tools.name === "answer");
    at("undo").disabled = !this.past.length;
    at("redo").disabled = !this.future.length;
  }

  under(x, y) {
    const image = this.image(), place = y * image.width + x;
    const label = image.labels[place], predicted = image.prediction ? image.prediction[place] : UNLABELED;
    const name = index => this.classes[index] ? this.classes[index].name : "nothing";
    const text = "labeled " + name(label) + (image.prediction ? ", model " + name(predicted) : "");
    at("under").textContent = x + ", " + y + ": " + text;
  }

  zoomPlace() {
    const {cross, mouse} = this.tools;
    return cross ? this.view.fromImage(...cross) : mouse || [this.view.width / 2, this.view.height / 2];
  }

  show(what) {
    this.shown = this.view.shown = what;
    this.view.dirtyAll();
    this.changed();
  }

  nextShown() {
    this.show(SHOWN[(SHOWN.indexOf(this.shown) + 1) % SHOWN.length]);
    this.announce("shown: " + at("shown").selectedOptions[0].text);
  }

  setOpacity(opacity) {
    this.view.opacity = Math.max(0, Math.min(1, opacity));
    this.view.dirtyAll();
    this.changed();
  }

  changeOpacity(step) {
    let next = this.view.opacity - step;
    if (next < 0) next = 1;
    this.setOpacity(next);
    this.announce("opacity " + Math.round(100 * this.view.opacity) + " %");
  }

  toggleHatch() {
    this.view.hatch = !this.view.hatch;
    this.view.dirtyAll();
    this.changed();
  }

  toggleOwn() {
    this.own = at("own").checked;
    store("own-colors", this.own ? "yes" : "no");
    this.colors = palette(this.classes, this.own);
    this.view.setColors(this.colors);
    panel.fillClasses(this.classes, this.colors, index => this.chooseClass(index));
    this.changed();
    this.showQuestion(this.hereAsked());
  }

  focusFilter() {
    at("filter-row").hidden = false;
    at("filter").focus();
    at("filter").select();
  }

  onFilterKey(event) {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    const fits = panel.filterClasses(at("filter").value);
    const chosen = event.key === "Enter" && at("filter").value.trim() && fits.length ? fits[0] : null;
    at("filter").value = "";
    panel.filterClasses("");
    at("stage").focus();
    if (chosen !== null) this.chooseClass(chosen);
  }

  // ---- dialogs

  openHelp() {
    at("help-dialog").showModal();
  }

  openName() {
    at("name-input").value = this.by;
    at("name-dialog").showModal();
    at("name-input").select();
  }

  onName(event) {
    event.preventDefault();
    const name = at("name-input").value.trim();
    if (!name) return;
    this.by = name.slice(0, 80);
    store("name", this.by);
    at("name").textContent = this.by;
    at("name-dialog").close();
    this.presence();
  }

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
  }

  fillList() {
    const wanted = at("list-filter").value.trim().toLowerCase();
    const fits = this.rows.filter(one => one.name.toLowerCase().includes(wanted));
    at("list-count").textContent = fits.length > 400 ? "the first 400 of " + fits.length : fits.length + " images";
    panel.fillList(fits.slice(0, 400), this.image()?.number, number => {
      at("list-dialog").close();
      this.open(number);
    });
  }

  // ---- the server's state

  showState(state) {
    this.unwritten = state.unwritten;
    panel.showSaved(this.outbox, this.unwritten);
    panel.showCounts(state, state.questions);
    panel.showTraining(state.training);
  }

  async presence() {
    const image = this.image();
    try {
      const found = await postJson("api/presence", {by: this.by, page: this.page, number: image ? image.number : null});
      panel.showPeople(found.others, found.people, this.by);
      this.showState(found);
      if (found.version !== this.state.version) this.onNewModel(found);
      const busy = this.tools.stroke || this.outbox.waiting.length;
      if (image && image === this.image() && found.revision > image.revision && !busy) await this.refreshLabels(image);
      if (this.outbox.problem) this.outbox.send();
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
    }
  }

  // Training has put another model in place: its masks and its questions replace the former ones.
  onNewModel(found) {
    this.state.version = found.version;
    for (const [number, coming] of this.images) {
      if (coming.ready === this.image()) this.refreshPrediction(coming.ready);
      else this.images.delete(number);
    }
    this.questions.waiting = [];
    this.questions.refill();
    this.announce("the new model is in place");
  }

  async train() {
    try {
      panel.showTraining(await postJson("api/training", {}));
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      this.announce(error.lines.join(", "));
    }
  }
}

function paintRegion(image, region, label) {
  eachRun(region, (y, x0, x1) => image.labels.fill(label, y * image.width + x0, y * image.width + x1));
}

function stored(key, otherwise) {
  try {
    return localStorage.getItem("segwright-label-" + key) || otherwise;
  } catch {
    return otherwise;
  }
}

function store(key, value) {
  try {
    localStorage.setItem("segwright-label-" + key, value);
  } catch { /* no storage */ }
}

new App().start().catch(error => {
  at("unreadable").hidden = false;
  at("unreadable").textContent = "The page cannot start: " + error.message;
});
