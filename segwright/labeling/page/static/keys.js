// The keyboard. Keys act unless one types, or a dialog is open; those of buttons stay theirs.
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

export function listen(app) {
  addEventListener("keydown", event => {
    const target = event.target;
    if (target.closest("dialog") || target.matches("textarea, select, input:not([type=range]):not([type=checkbox])")) return;
    const onButton = target.matches("button, a, summary, input");
    if (onButton && [" ", "Enter"].includes(event.key)) return;
    if (target.matches("input[type=range]") && event.key in ARROWS) return;
    if (handle(app, event)) event.preventDefault();
  });
  addEventListener("click", event => {  // by a pointer: else the next Enter would press the same button again
    if (event.detail && event.target.closest("button, summary")) app.view.stage.focus({preventScroll: true});
  }, true);
  addEventListener("keyup", event => {
    if (event.key === "Alt") event.preventDefault();  // else the browser's menu takes the focus
  });
}

function handle(app, event) {
  const {key, shiftKey: shift, altKey: alt} = event;
  const {tools, view} = app;
  if (event.ctrlKey || event.metaKey) {
    const letter = key.toLowerCase();
    if (letter === "z") return shift ? app.redo() : app.undo(), true;
    if (letter === "y") return app.redo(), true;
    return false;
  }
  if (key in ARROWS) {
    const [dx, dy] = ARROWS[key];
    if (alt) view.pan(-dx * 80, -dy * 80);
    else tools.moveCross(dx, dy, shift);
    return true;
  }
  const digit = /^Digit([0-9])$/.exec(event.code) || /^Numpad([0-9])$/.exec(event.code);
  if (digit && !alt) {
    const number = (Number(digit[1]) + 9) % 10 + (shift ? 10 : 0);
    app.chooseClass(number);
    return true;
  }
  if (alt) return false;
  const action = ACTIONS[key.length === 1 ? key.toLowerCase() : key];
  if (!action) return false;
  return action(app, shift) !== false;
}

const ACTIONS = {
  Enter: app => app.tools.name === "polygon" && app.tools.corners.length ? app.tools.closePolygon() : app.answerRight(),
  " ": (app, shift) => app.tools.act(shift),
  Backspace: app => app.tools.dropCorner(),
  Escape: app => app.tools.leave(),
  n: app => app.skip(),
  v: app => app.tools.choose("answer"),
  b: app => app.tools.choose("brush"),
  p: app => app.tools.choose("polygon"),
  f: app => app.tools.choose("fill"),
  e: app => app.tools.choose("eraser"),
  "[": app => app.tools.resize(1 / 1.25),
  "]": app => app.tools.resize(1.25),
  z: app => app.undo(),
  y: app => app.redo(),
  "+": app => app.view.zoom(1.4, ...app.zoomPlace()),
  "=": app => app.view.zoom(1.4, ...app.zoomPlace()),
  "-": app => app.view.zoom(1 / 1.4, ...app.zoomPlace()),
  r: app => app.view.fit(),
  g: app => app.goToQuestion(),
  m: app => app.nextShown(),
  o: (app, shift) => app.changeOpacity(shift ? -.15 : .15),
  h: app => app.toggleHatch(),
  PageDown: app => app.goTo(1),
  PageUp: app => app.goTo(-1),
  l: app => app.openList(),
  t: app => app.train(),
  "/": app => app.focusFilter(),
  "?": app => app.openHelp(),
};
