// The image viewer: an image with its label maps, drawn on a canvas, so that classes, colors and opacity act at once.
// The data (a JSON script in the page) holds per image its maps as zlib-compressed bytes in base64; 255 is ignored.
// A map is not an image file: browsers that blur what a page reads from a canvas would change the classes.
(() => {
  const IGNORED = 255;
  // Okabe and Ito 2008, without black: distinguishable with any kind of color vision. Further classes get hatches as well.
  const SAFE = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0],
    [204, 121, 167], [235, 235, 235]];
  const CIVIDIS = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120],
    [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]];  // Nuñez et al. 2018, for color-blind readers
  const WRONG = [222, 45, 38];
  const WRONG_HATCH = [90, 0, 10];
  const PERIOD = 9;  // of a hatch, in pixels of the canvas
  const PRINTED = 6;  // images on paper
  // Whether a pixel lies on a line of hatch 1…6; 0 is plain.
  const HATCHES = [
    () => false,
    (x, y) => (x + y) % PERIOD < 2,
    (x, y) => (x - y + 9e5) % PERIOD < 2,
    (x, y) => y % PERIOD < 2,
    (x, y) => x % PERIOD < 2,
    (x, y) => x % PERIOD < 3 && y % PERIOD < 3,
    (x, y) => (x + y) % PERIOD < 2 || (x - y + 9e5) % PERIOD < 2,
  ];

  async function inflate(map) {
    const bytes = Uint8Array.from(atob(map.data), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return {w: map.w, h: map.h, values: new Uint8Array(await new Response(stream).arrayBuffer())};
  }

  function ramp(share) {
    const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
    const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
    return CIVIDIS[low].map((value, i) => value + (at - low) * (CIVIDIS[low + 1][i] - value));
  }

  function canvasOf(width, height) {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    return canvas;
  }

  const packed = ([r, g, b], alpha) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;

  // Draw pixel by pixel: paint(index, x, y) returns a packed color, 0 for a clear pixel.
  function painted(width, height, paint) {
    const canvas = canvasOf(width, height);
    const context = canvas.getContext("2d");
    const target = context.createImageData(width, height);
    const pixels = new Uint32Array(target.data.buffer);
    for (let y = 0, index = 0; y < height; y++) {
      for (let x = 0; x < width; x++, index++) pixels[index] = paint(index, x, y);
    }
    context.putImageData(target, 0, 0);
    return canvas;
  }

  const wrongAt = (x, y, alpha) => packed(HATCHES[2](x, y) ? WRONG_HATCH : WRONG, alpha);

  function startViewer(root) {
    const data = JSON.parse(document.getElementById(root.id + "-data").textContent);
    const part = name => root.querySelector("[data-part=" + name + "]");
    const layers = new Map(data.layers.map(layer => [layer.key, layer]));
    const boxes = [...root.querySelectorAll("input[data-toggle]")];
    const thumbs = [...root.querySelectorAll(".thumbs button")];
    const canvas = part("canvas");
    const view = {safe: false, hatch: false, names: false, split: 50, opacity: 65, hidden: new Set()};
    let current = -1;
    let shown = null;  // {image, maps} of the current image
    let drawn = new Map();  // finished layers by key, until a setting changes
    let probe = null;  // the pixel that is described

    // Colors

    const colorOf = index => view.safe ? SAFE[index % SAFE.length] : data.classes[index].color;

    function hatchOf(index) {
      const round = Math.floor(index / SAFE.length);
      if (view.safe) return (view.hatch ? index + round : round) % HATCHES.length;
      return view.hatch ? index % HATCHES.length : 0;
    }

    function styles(alpha = 255) {
      return data.classes.map((_, index) => {
        const color = colorOf(index);
        const light = 0.3 * color[0] + 0.6 * color[1] + 0.1 * color[2] > 110;
        const line = light ? [30, 30, 30] : [245, 245, 245];
        return {plain: packed(color, alpha), line: packed(line, alpha), hatch: HATCHES[hatchOf(index)]};
      });
    }

    // Layers

    function grayed(context, width, height) {
      context.drawImage(shown.image, 0, 0, width, height);
      context.globalCompositeOperation = "saturation";
      context.fillStyle = "#808080";
      context.fillRect(0, 0, width, height);
      context.globalCompositeOperation = "source-over";
      context.fillStyle = "rgba(255, 255, 255, .5)";
      context.fillRect(0, 0, width, height);
    }

    const shade = (x, y) => HATCHES[1](x, y) ? packed([150, 150, 150], 150) : packed([0, 0, 0], 165);

    function drawLabels(context, map) {
      const style = styles(Math.round(2.55 * view.opacity));
      const ignore = shown.maps[data.ignore];
      context.drawImage(shown.image, 0, 0, map.w, map.h);
      context.drawImage(painted(map.w, map.h, (index, x, y) => {
        const label = map.values[index];
        if (label === IGNORED || (ignore && ignore.values[index] === IGNORED)) return shade(x, y);
        if (label >= style.length || view.hidden.has(label)) return 0;
        const {plain, line, hatch} = style[label];
        return hatch(x, y) ? line : plain;
      }), 0, 0);
      if (view.names) drawNames(context, map);
    }

    // The name of each class at one of its pixels near the middle of them; small classes are left out.
    function drawNames(context, map) {
      const size = Math.max(12, Math.round(map.w / 42));
      context.font = "600 " + size + "px system-ui, sans-serif";
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.lineWidth = size / 4;
      context.strokeStyle = "rgba(0, 0, 0, .8)";
      context.fillStyle = "#fff";
      const ignore = shown.maps[data.ignore];
      data.classes.forEach((entry, label) => {
        if (view.hidden.has(label)) return;
        const pixels = [];
        map.values.forEach((value, index) => {
          if (value === label && !(ignore && ignore.values[index] === IGNORED)) pixels.push(index);
        });
        if (pixels.length < 0.004 * map.values.length) return;
        const rows = pixels.map(index => Math.floor(index / map.w));
        const columns = pixels.map(index => index % map.w).sort((a, b) => a - b);
        const middle = [columns[columns.length >> 1], rows[rows.length >> 1]];
        let best = pixels[0], least = Infinity;
        for (const index of pixels) {
          const away = (index % map.w - middle[0]) ** 2 + (Math.floor(index / map.w) - middle[1]) ** 2;
          if (away < least) [best, least] = [index, away];
        }
        const half = context.measureText(entry.name).width / 2;
        const x = Math.min(Math.max(best % map.w, half + 4), Math.max(map.w - half - 4, half + 4));
        const y = Math.min(Math.max(Math.floor(best / map.w), size), map.h - size);
        context.strokeText(entry.name, x, y);
        context.fillText(entry.name, x, y);
      });
    }

    function drawDifference(context, layer) {
      const [a, b] = layer.of.map(key => shown.maps[key]);
      const ignore = shown.maps[data.ignore];
      grayed(context, a.w, a.h);
      context.drawImage(painted(a.w, a.h, (index, x, y) => {
        if (ignore && ignore.values[index] === IGNORED) return shade(x, y);
        const [left, right] = [a.values[index], b.values[index]];
        if (left === right || (view.hidden.has(left) && view.hidden.has(right))) return 0;
        return wrongAt(x, y, 225);
      }), 0, 0);
    }

    function drawAmount(context, map, width, height) {
      grayed(context, width, height);
      context.globalAlpha = Math.max(view.opacity, 5) / 100;
      const table = Array.from({length: 256}, (_, value) => packed(ramp(value / 255), 255));
      context.drawImage(painted(map.w, map.h, index => table[map.values[index]]), 0, 0, width, height);
      context.globalAlpha = 1;
    }

    function layerCanvas(key) {
      if (drawn.has(key)) return drawn.get(key);
      const layer = layers.get(key);
      const {w, h} = data.images[current];
      const made = canvasOf(w, h);
      const context = made.getContext("2d");
      if (layer.kind === "labels") drawLabels(context, shown.maps[key]);
      else if (layer.kind === "difference") drawDifference(context, layer);
      else if (layer.kind === "amount") drawAmount(context, shown.maps[key], w, h);
      else context.drawImage(shown.image, 0, 0, w, h);
      drawn.set(key, made);
      return made;
    }

    // The stage

    const chosen = () => root.querySelector("input[data-part=view]:checked").value;
    const against = () => part("against").value;

    function compose() {
      if (!shown) return;
      const {w, h} = data.images[current];
      if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
      const context = canvas.getContext("2d");
      context.drawImage(layerCanvas(chosen()), 0, 0);
      const other = against();
      const compared = other !== "" && other !== chosen();
      if (compared) {
        const cut = Math.round(w * view.split / 100);
        if (cut > 0) context.drawImage(layerCanvas(other), 0, 0, cut, h, 0, 0, cut, h);
        context.fillStyle = "#fff";
        context.fillRect(cut - 2, 0, 4, h);
        context.fillStyle = "#000";
        context.fillRect(cut - 0.75, 0, 1.5, h);
        part("left").textContent = layers.get(other).title;
        part("right").textContent = layers.get(chosen()).title;
      }
      if (probe) {
        context.strokeStyle = "#fff";
        context.lineWidth = 3;
        context.strokeRect(probe.x - 7, probe.y - 7, 14, 14);
        context.strokeStyle = "#000";
        context.lineWidth = 1;
        context.strokeRect(probe.x - 7, probe.y - 7, 14, 14);
      }
      part("wipe").hidden = !compared;
      const seen = compared ? [other, chosen()] : [chosen()];
      const kinds = seen.map(key => layers.get(key).kind);
      part("wrong-legend").hidden = !kinds.includes("difference");
      part("amount-legend").hidden = !kinds.includes("amount");
      const titles = seen.map(key => layers.get(key).title);
      canvas.setAttribute("aria-label", data.images[current].name + ": " +
        (compared ? titles[0] + " left, " + titles[1] + " right of the slider" : titles[0]));
    }

    function redraw() {
      drawn = new Map();
      compose();
    }

    async function load(index) {
      const image = thumbs[index].querySelector("img");
      image.loading = "eager";
      await image.decode();
      const keys = Object.keys(data.images[index].maps);
      const maps = await Promise.all(keys.map(key => inflate(data.images[index].maps[key])));
      return {image, maps: Object.fromEntries(keys.map((key, i) => [key, maps[i]]))};
    }

    async function select(index) {
      if (!(index >= 0 && index < data.images.length)) return;
      current = index;
      probe = null;
      const entry = data.images[index];
      thumbs.forEach((thumb, i) => {
        if (i === index) thumb.setAttribute("aria-current", "true");
        else thumb.removeAttribute("aria-current");
      });
      const strip = part("thumbs");
      const thumb = thumbs[index];
      strip.scrollTop = Math.max(0, thumb.offsetTop - strip.clientHeight / 2);
      strip.scrollLeft = Math.max(0, thumb.offsetLeft - strip.clientWidth / 2);
      part("name").textContent = entry.name;
      part("caption").textContent = entry.caption;
      part("count").textContent = (index + 1) + " of " + data.images.length;
      part("previous").disabled = index === 0;
      part("next").disabled = index === data.images.length - 1;
      boxes.forEach((box, i) => {
        if (entry.scores.length === 0) return;
        const score = entry.scores[i];
        box.closest("label").classList.toggle("none", score === null);
        box.closest("label").querySelector("[data-score]").textContent = score === null ? "–" : score.toFixed(1);
      });
      const found = await load(index);
      if (current !== index) return;
      shown = found;
      root.dataset.ready = String(index);
      part("readout").textContent = "";
      redraw();
    }

    function describe(x, y) {
      const {w, h} = data.images[current];
      const words = data.layers.filter(layer => shown.maps[layer.key]).map(layer => {
        const map = shown.maps[layer.key];
        const value = map.values[Math.floor(y * map.h / h) * map.w + Math.floor(x * map.w / w)];
        if (layer.kind === "amount") return layer.title + ": " + (value / 255).toFixed(2);
        return layer.title + ": " + (value === IGNORED ? "ignored" : (data.classes[value] || {name: "?"}).name);
      });
      return words.join(" · ");
    }

    // Controls

    for (const radio of root.querySelectorAll("input[data-part=view]")) radio.addEventListener("change", compose);
    part("against").addEventListener("change", compose);
    part("split").addEventListener("input", event => { view.split = Number(event.target.value); compose(); });
    part("opacity").addEventListener("input", event => {
      view.opacity = Number(event.target.value);
      part("opacity-value").textContent = view.opacity + " %";
      redraw();
    });
    part("zoom").addEventListener("change", event => {
      canvas.className = "zoom" + event.target.value;
    });
    for (const name of ["safe", "hatch", "names"]) {
      part(name).addEventListener("change", event => {
        view[name] = event.target.checked;
        paintSwatches();
        redraw();
      });
    }

    function toggled() {
      view.hidden = new Set(boxes.flatMap((box, i) => box.checked ? [] : [i]));
      redraw();
    }
    boxes.forEach(box => box.addEventListener("change", toggled));
    for (const [name, on] of [["all", true], ["none", false]]) {
      part(name).addEventListener("click", () => { boxes.forEach(box => { box.checked = on; }); toggled(); });
    }

    function paintSwatches() {
      const style = styles();
      root.querySelectorAll("canvas[data-swatch]").forEach((swatch, label) => {
        const {plain, line, hatch} = style[label];
        swatch.getContext("2d").drawImage(painted(27, 27, (_, x, y) => hatch(x, y) ? line : plain), 0, 0);
      });
      document.querySelectorAll("rect[data-class]").forEach(rect => {
        rect.setAttribute("fill", "rgb(" + colorOf(Number(rect.dataset.class)).join(",") + ")");
      });
    }

    thumbs.forEach((thumb, index) => thumb.addEventListener("click", () => select(index)));
    part("previous").addEventListener("click", () => select(current - 1));
    part("next").addEventListener("click", () => select(current + 1));

    function pixelAt(event) {
      const box = canvas.getBoundingClientRect();
      const {w, h} = data.images[current];
      return {
        x: Math.min(Math.max(Math.floor((event.clientX - box.left) / box.width * w), 0), w - 1),
        y: Math.min(Math.max(Math.floor((event.clientY - box.top) / box.height * h), 0), h - 1),
      };
    }

    function moveSplit(event) {
      const box = canvas.getBoundingClientRect();
      view.split = Math.min(Math.max(100 * (event.clientX - box.left) / box.width, 0), 100);
      part("split").value = view.split;
      compose();
    }

    canvas.addEventListener("pointerdown", event => {
      if (event.pointerType === "mouse" && !part("wipe").hidden) {
        canvas.setPointerCapture(event.pointerId);
        moveSplit(event);
      }
    });
    canvas.addEventListener("pointermove", event => {
      if (canvas.hasPointerCapture(event.pointerId)) moveSplit(event);
      if (!shown) return;
      const {x, y} = pixelAt(event);
      part("readout").textContent = describe(x, y);
    });

    // By keyboard on the image: digits choose the view, arrows move a mark whose pixel is described.
    part("stage").addEventListener("keydown", event => {
      if (event.ctrlKey || event.metaKey || event.altKey || !shown) return;
      const radios = [...root.querySelectorAll("input[data-part=view]")];
      const digit = Number(event.key);
      const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
      const {w, h} = data.images[current];
      if (digit >= 1 && digit <= radios.length) radios[digit - 1].checked = true;
      else if (event.key === "Escape") probe = null;
      else if (steps[event.key]) {
        const far = event.shiftKey ? 1 : 10;
        const from = probe || {x: w >> 1, y: h >> 1};
        probe = {
          x: Math.min(Math.max(from.x + far * steps[event.key][0], 0), w - 1),
          y: Math.min(Math.max(from.y + far * steps[event.key][1], 0), h - 1),
        };
        part("readout").textContent = describe(probe.x, probe.y);
      } else return;
      event.preventDefault();
      compose();
    });

    // Links to an image: #images-3 is the third.
    function followLink() {
      const found = location.hash.match(/^#(.*)-(\d+)$/);
      if (!found || found[1] !== root.id) return false;
      select(Number(found[2]) - 1);
      root.scrollIntoView();
      part("stage").focus({preventScroll: true});
      return true;
    }
    addEventListener("hashchange", followLink);

    // On paper: the first images with every label map side by side.
    let onPaper = [];
    const ready = Promise.all(data.images.slice(0, PRINTED).map((_, index) => load(index)));
    ready.then(found => { onPaper = found; root.dataset.printable = "yes"; });
    addEventListener("beforeprint", () => {
      const kept = [current, shown, drawn];
      const paper = part("paper");
      paper.replaceChildren();
      onPaper.forEach((found, index) => {
        [current, shown, drawn] = [index, found, new Map()];
        const entry = data.images[index];
        const row = document.createElement("div");
        row.className = "paper-row";
        const title = document.createElement("p");
        title.textContent = entry.name + ": " + entry.caption;
        paper.append(title, row);
        for (const layer of data.layers.filter(layer => layer.kind !== "amount")) {
          const figure = row.appendChild(document.createElement("figure"));
          const caption = document.createElement("figcaption");
          caption.textContent = layer.title;
          figure.append(layerCanvas(layer.key), caption);
        }
      });
      [current, shown, drawn] = kept;
    });

    const bar = part("amount-bar");
    bar.getContext("2d").drawImage(painted(bar.width, 1, (_, x) => packed(ramp(x / (bar.width - 1)), 255)),
      0, 0, bar.width, bar.height);
    const mark = part("wrong-mark");
    mark.getContext("2d").drawImage(painted(27, 27, (_, x, y) => wrongAt(x, y, 255)), 0, 0);
    paintSwatches();
    root.hidden = false;
    if (!followLink()) select(0);
  }

  document.querySelectorAll(".viewer").forEach(startViewer);
})();
