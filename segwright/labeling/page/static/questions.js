// The questions of this page: a few are held ahead, so that the next one is there when one is answered.
import {postJson} from "./server.js";

const FEW = 4;  // fewer than this are left: more are fetched

export class Questions {
  constructor(person, onArrived) {
    this.person = person;  // () => ({by, page})
    this.onArrived = onArrived;
    this.waiting = [];
    this.current = null;
    this.left = null;
    this.ended = false;
    this.failed = null;
  }

  key(one) {
    return one.number + "/" + one.id;
  }

  // Take the next question; null if there is none at hand.
  next() {
    this.current = this.waiting.shift() || null;
    this.refill();
    return this.current;
  }

  // Ask this one again, before the others.
  back(question) {
    if (this.current) this.waiting.unshift(this.current);
    this.waiting = this.waiting.filter(one => this.key(one) !== this.key(question));
    this.current = question;
  }

  forget() {
    this.waiting = [];
    this.current = null;
    this.done = new Set();
  }

  upcoming() {
    return this.waiting.map(one => one.number);
  }

  async refill() {
    if (this.fetching || this.waiting.length >= FEW) return;
    this.fetching = true;
    const have = [this.current, ...this.waiting].filter(Boolean).map(one => this.key(one));
    try {
      const found = await postJson("api/questions", {...this.person(), have});
      const held = new Set([...have, ...this.recent]);
      const fresh = found.questions.filter(one => !held.has(this.key(one)));
      this.waiting.push(...fresh);
      this.left = found.left;
      this.ended = !fresh.length && !this.waiting.length;
      this.failed = null;
    } catch (error) {
      this.failed = error;
    }
    this.fetching = false;
    this.onArrived();
  }

  // Questions answered here whose answers may not have reached the server yet.
  recent = new Set();

  answered(question) {
    this.recent.add(this.key(question));
    if (this.recent.size > 500) this.recent.delete(this.recent.values().next().value);
  }

  reopened(question) {
    this.recent.delete(this.key(question));
  }
}
