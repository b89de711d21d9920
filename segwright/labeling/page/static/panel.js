// The side panel: question, classes, tools, what is saved, training, people; the dialogs.
import {css, ink} from "./colors.js";

const at = id => document.getElementById(id);
const percent = share => share > 0 && share < .001 ? "< 0.1 %" : (100 * share).toFixed(1) + " %";
const many = (count, word) => count + " " + word + (count === 1 ? "" : "s");

export function announce(text) {
  at("live").textContent = "";
  requestAnimationFrame(() => { at("live").textContent = text; });
}

export function chip(element, index, name, color) {
  element.replaceChildren();
  const swatch = document.createElement("span");
  swatch.className = "number";
  swatch.textContent = index + 1;
  swatch.style.background = css(color);
  swatch.style.color = ink(color);
  const text = document.createElement("bdi");
  text.textContent = name;
  element.append(swatch, text);
  return element;
}

export function fillClasses(classes, colors, choose) {
  const list = at("classes");
  list.replaceChildren(...classes.map(one => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.index = one.index;
    chip(button, one.index, one.name, colors[one.index]);
    button.addEventListener("click", () => choose(one.index));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  at("filter-row").hidden = classes.length < 12;
}

export function filterClasses(text) {
  const wanted = text.trim().toLowerCase();
  const fits = [];
  for (const item of at("classes").children) {
    const name = item.innerText.toLowerCase();
    item.hidden = Boolean(wanted) && !name.includes(wanted);
    if (!item.hidden) fits.push(Number(item.firstChild.dataset.index));
  }
  return fits;
}

export function showChosen(index, answering) {
  at("classes-title").textContent = answering ? "It is\u2026" : "Paint with";
  for (const button of at("classes").querySelectorAll("button")) {
    const chosen = !answering && Number(button.dataset.index) === index;
    button.setAttribute("aria-pressed", String(chosen));
    if (chosen) button.scrollIntoView({block: "nearest", inline: "nearest"});
  }
}

export function showQuestion(question, classes, colors, note) {
  const asked = at("question-text");
  asked.replaceChildren();
  at("right").hidden = !question || question.predicted === null;
  at("skip").hidden = at("look").hidden = !question;
  if (!question) {
    asked.textContent = note;
    at("question-note").textContent = "";
    return;
  }
  if (question.predicted !== null) {
    const name = chip(document.createElement("span"), question.predicted, classes[question.predicted].name,
      colors[question.predicted]);
    name.className = "chip";
    if (question.kind === "check") asked.append("Is this ", name, "?");
    else asked.append("Which class is this? The model: ", name);
  } else {
    asked.textContent = "Which class is this?";
  }
  at("question-note").textContent = note;
}

export function showTools(tools, shown, opacity, hatch) {
  for (const button of document.querySelectorAll("button[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === tools.name));
  }
  at("size-row").hidden = !["brush", "eraser"].includes(tools.name);
  at("close-polygon").hidden = tools.name !== "polygon" || !tools.corners.length;
  at("size").value = tools.size;
  at("size-shown").textContent = tools.size;
  at("shown").value = shown;
  at("opacity").value = Math.round(100 * opacity);
  at("hatch").checked = hatch;
}

export function showSaved(outbox, unwritten) {
  const waiting = outbox.waiting.length, box = at("saved"), alarm = at("alarm");
  box.textContent = waiting ? many(waiting, "stroke") + " being saved" : "all saved";
  box.dataset.state = outbox.problem ? "bad" : waiting ? "busy" : "good";
  const lines = [];
  if (outbox.problem) {
    const full = outbox.problem.status === 507;
    lines.push(full ? "The strokes cannot be written to the disk." : "The strokes cannot be sent.",
      ...outbox.problem.lines, outbox.unstored
        ? many(outbox.unstored, "stroke") + " did not fit into this browser's storage: keep this page open."
        : many(waiting, "stroke") + " kept in this browser and sent again until saved.");
  } else if (unwritten) {
    lines.push(unwritten);
  }
  alarm.hidden = !lines.length;
  const text = lines.join("\n");
  if (alarm.textContent !== text) alarm.textContent = text;
}

export function showCounts(state, left) {
  const {answers, clicks, images, strokes} = state.counts;
  at("counts").textContent = many(answers, "answer") + ", " + many(strokes, "stroke") + ", " + many(clicks, "click") +
    " on " + many(images, "image") + (left === null || left === undefined ? "" : "; " + many(left, "question") + " left");
}

export function showPeople(others, people, me) {
  const elsewhere = Object.keys(people).filter(name => name !== me && !others.includes(name));
  const lines = [];
  if (others.length) lines.push(others.join(", ") + (others.length > 1 ? " are" : " is") + " on this image too: the last stroke holds");
  if (elsewhere.length) lines.push("also here: " + elsewhere.join(", "));
  at("people").textContent = lines.join(". ");
  at("people").dataset.here = String(Boolean(others.length));
}

export function showTraining(training) {
  at("training").hidden = !training;
  if (!training) return;
  at("training-line").textContent = training.line;
  at("training-line").dataset.state = training.state;
  at("training-gain").textContent = training.gain_line || "";
  at("training-note").textContent = training.note || "";
  at("train").disabled = training.state === "training";
}

export function showImage(image, count, share) {
  at("image-name").textContent = image.name;
  at("image-place").textContent = image.number + 1 + " of " + count;
  at("share").textContent = percent(share) + " labeled";
  const conflicts = image.conflicts || [];
  at("conflicts").hidden = !conflicts.length;
  at("conflicts").textContent = conflicts.length ? "Labels replaced on this image: " + conflicts.slice(-3).map(one =>
    one.by + " over " + one.over + ", " + one.pixels + " pixels").join("; ") : "";
}

export function fillList(rows, current, choose) {
  at("list-rows").replaceChildren(...rows.map(one => {
    const button = document.createElement("button");
    button.type = "button";
    const name = document.createElement("bdi"), share = document.createElement("span");
    name.textContent = one.name;
    share.textContent = one.strokes ? percent(one.share) : "";
    button.append(name, share);
    if (one.number === current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => choose(one.number));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}
