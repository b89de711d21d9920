// Colors of classes: a palette that differs in lightness as well as in hue (after Okabe and Ito, and Tol), or the
// dataset's own. Hatching differs by class as well, so that colors need not be distinguished.
const SAFE = [
  [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0], [240, 228, 66],
  [120, 40, 120], [17, 51, 119], [170, 170, 170], [102, 51, 0], [119, 221, 170], [255, 170, 170], [51, 102, 0],
  [187, 204, 238], [90, 0, 30], [220, 220, 180], [0, 90, 90], [255, 110, 80], [70, 70, 90],
];

export function palette(classes, own) {
  return classes.map((one, index) => own ? one.color : SAFE[index % SAFE.length]);
}

// 256 colors as numbers for ImageData (alpha, blue, green, red), with one opacity for all.
export function lookup(colors, opacity) {
  const table = new Uint32Array(256);
  const alpha = Math.round(255 * opacity) << 24;
  colors.forEach(([red, green, blue], index) => { table[index] = (alpha | blue << 16 | green << 8 | red) >>> 0; });
  return table;
}

// Whether the hatching of a class covers a pixel: four directions, four distances.
export function hatched(label, x, y) {
  const step = 5 + (label >> 2) % 4 * 2;
  const along = [x + y, x - y + 4096 * step, x, y][label % 4];
  return along % step === 0;
}

export function css(color) {
  return "rgb(" + color.join(",") + ")";
}

// Black or white, whichever is easier to read on a color.
export function ink([red, green, blue]) {
  const linear = [red, green, blue].map(value => (value / 255) ** 2.2);
  return .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2] > .18 ? "#000" : "#fff";
}
