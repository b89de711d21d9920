// The label page: one image at a time, the next question outlined, answers and strokes kept at once.
import {palette} from "./colors.js";
import {LabelImage} from "./image.js";
import {listen} from "./keys.js";
import {countPixels, eachRun, outline, UNLABELED} from "./masks.js";
import {Outbox} from "./outbox.js";
import * as panel from "./panel.js";
import {Questions} from "./questions.js";
import {looks, store, stored} from "./looks.js";
import {beacon, getJson, postJson, randomId, ServerError} from "./server.js";
import {strokes} from "./strokes.js";
import {Tools} from "./tools.js";
import {View} from "./view.js";

const at = id => document.getElementById(id);
const AHEAD = 3, KEPT = 6;  // images loaded ahead, and kept
const PRESENCE = 4000;  // milliseconds
const UNREADABLE = 400;  // the server's answer for an image that it cannot read; others may be of a moment

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
    at("display").open = innerWidth > 820;
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
      while (this.images.size > KEPT && spare.length) this.forget(spare.shift());
    }
    return found;
  }

  forget(number) {
    const image = this.images.get(number).ready;
    this.images.delete(number);
    if (image) this.view.forget(image);
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
    this.missed = null;
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
    this.missed = null;
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
    at("image-name").textContent = at("share").textContent = "";
    this.nameUnreadable(number);
    this.unreadable = number;
    if (question && error.status === UNREADABLE) return this.skip();
    if (error.status !== UNREADABLE) this.missed = {number, question};  // nobody has skipped it: the page tries again
    this.showQuestion(null);
  }

  async nameUnreadable(number) {
    const {images} = await getJson("api/images?from=" + number).catch(() => ({images: []}));
    if (!this.image() && this.unreadable === number && images.length) at("image-name").textContent = images[0].name;
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
    this.view.renewed(image);
  }

  async refreshLabels(image) {
    await image.loadLabels();
    this.replay(image);
    this.view.renewed(image);
    if (this.image() === image) this.showShare();
  }

  // ---- questions

  onQuestions() {
    this.loadAhead();
    if (!this.questions.current && !this.resting) this.advance();
    else if (this.questions.failed) this.showQuestion(this.questions.current);
  }

  // The images of the next questions, and what they will show.
  loadAhead() {
    for (const number of [...new Set(this.questions.upcoming())].slice(0, AHEAD)) {
      const first = this.questions.waiting.find(one => one.number === number);
      this.load(number).then(image => this.view.prepare(image, first && first.box), () => {});
    }
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
    clearTimeout(this.ahead);
    this.ahead = setTimeout(() => this.loadAhead(), 100);
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
      const name = question.predicted === null ? "" : this.classes[question.predicted].name;
      this.announce(!name ? "Which class is the outlined region?" : question.kind === "check"
        ? "Is the outlined region " + name + "?" : "Which class is the outlined region? The model: " + name);
    } else {
      const other = this.questions.current ? "The next question is on another image: press G." : null;
      const none = this.questions.failed ? "No questions: " + this.questions.failed.lines[0]
        : this.questions.ended ? "Every question is answered. Paint, or choose an image." : "The next question is being made\u2026";
      panel.showQuestion(null, this.classes, this.colors, other || none);
      at("look").hidden = !this.questions.current;
    }
    document.body.dataset.image = image ? image.number : "";
    document.body.dataset.asked = here ? question.id : "";
    this.view.drawTop();
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
    this.past.push({id: this.lastId, by: this.by, number: question.number, question});
    this.future = [];
    this.advance();
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
      if (this.missed) this.open(this.missed.number, this.missed.question);
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
    }
  }

  // Training has put another model in place: its masks and its questions replace the former ones.
  onNewModel(found) {
    this.state.version = found.version;
    for (const [number, coming] of this.images) {
      if (coming.ready === this.image()) this.refreshPrediction(coming.ready);
      else this.forget(number);
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

Object.assign(App.prototype, strokes, looks);
new App().start().catch(error => {
  at("unreadable").hidden = false;
  at("unreadable").textContent = "The page cannot start: " + error.message;
});
