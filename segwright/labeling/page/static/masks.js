// Regions of an image: run lengths, shapes to pixels, outlines. A region is {box: [left, top, right, bottom], runs}
// with run lengths along the rows of the box, background first.
export const UNLABELED = 255;

export function decodeLabels(runs, count) {
  const labels = new Uint8Array(count);
  let place = 0;
  for (const run of runs) {
    const end = place + (run >>> 8);
    labels.fill(run & 255, place, end);
    place = end;
  }
  return labels;
}

export function decodeUnits(pairs, count) {
  const units = new Int32Array(count);
  let place = 0;
  for (let i = 0; i < pairs.length; i += 2) {
    units.fill(pairs[i + 1], place, place + pairs[i]);
    place += pairs[i];
  }
  return units;
}

// Calls row(y, x0, x1) for every run of the region; x1 is not part of it.
export function eachRun({box, runs}, row) {
  const [left, top, right] = box;
  const width = right - left;
  let place = 0;
  runs.forEach((length, index) => {
    if (index % 2) {
      for (let rest = length, at = place; rest > 0;) {
        const x = at % width, part = Math.min(rest, width - x);
        row(top + (at - x) / width, left + x, left + x + part);
        at += part;
        rest -= part;
      }
    }
    place += length;
  });
}

export function countPixels(region) {
  return region.runs.reduce((sum, length, index) => index % 2 ? sum + length : sum, 0);
}

// The region of a scratch map's set pixels within a box, trimmed to them; null if there is none.
export function regionOf(scratch, width, box) {
  let [left, top, right, bottom] = box, found = null;
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      if (!scratch[y * width + x]) continue;
      if (!found) found = [x, y, x + 1, y + 1];
      found = [Math.min(found[0], x), found[1], Math.max(found[2], x + 1), y + 1];
    }
  }
  if (!found) return null;
  [left, top, right, bottom] = found;
  const runs = [];
  let value = 0, length = 0;
  for (let y = top; y < bottom; y++) {
    for (let i = y * width + left, end = y * width + right; i < end; i++) {
      if (scratch[i] === value) {
        length++;
      } else {
        runs.push(length);
        value = scratch[i];
        length = 1;
      }
    }
  }
  runs.push(length);
  return {box: found, runs};
}

// Calls set(y, x0, x1) for the rows of a thick line with round ends; points are pixel coordinates.
export function eachRowOfLine(x0, y0, x1, y1, radius, height, width, set) {
  const first = Math.max(0, Math.floor(Math.min(y0, y1) - radius));
  const last = Math.min(height - 1, Math.ceil(Math.max(y0, y1) + radius));
  const dx = x1 - x0, dy = y1 - y0, along = dx * dx + dy * dy;
  for (let y = first; y <= last; y++) {
    const low = Math.max(0, Math.floor(Math.min(x0, x1) - radius));
    const high = Math.min(width - 1, Math.ceil(Math.max(x0, x1) + radius));
    let begin = -1, end = -1;
    for (let x = low; x <= high; x++) {
      const px = x + .5 - x0, py = y + .5 - y0;
      const t = along ? Math.max(0, Math.min(1, (px * dx + py * dy) / along)) : 0;
      const ex = px - t * dx, ey = py - t * dy;
      if (ex * ex + ey * ey <= radius * radius) {
        if (begin < 0) begin = x;
        end = x + 1;
      } else if (begin >= 0) {
        break;  // a capsule is convex: one run per row
      }
    }
    if (begin >= 0) set(y, begin, end);
  }
}

// The rows of a polygon: pixels whose middle is inside, by the even-odd rule.
export function eachRowOfPolygon(points, height, width, set) {
  const ys = points.map(point => point[1]);
  const first = Math.max(0, Math.floor(Math.min(...ys))), last = Math.min(height - 1, Math.ceil(Math.max(...ys)));
  for (let y = first; y <= last; y++) {
    const middle = y + .5, crossings = [];
    points.forEach(([ax, ay], index) => {
      const [bx, by] = points[(index + 1) % points.length];
      if ((ay <= middle) !== (by <= middle)) crossings.push(ax + (middle - ay) / (by - ay) * (bx - ax));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const begin = Math.max(0, Math.ceil(crossings[i] - .5)), end = Math.min(width, Math.ceil(crossings[i + 1] - .5));
      if (end > begin) set(y, begin, end);
    }
  }
}

// The connected pixels (by edges) of one value around a place, set in scratch; returns their box.
export function flood(values, scratch, height, width, x, y) {
  const value = values[y * width + x], box = [x, y, x + 1, y + 1], stack = [[x, y]];
  while (stack.length) {
    const [sx, sy] = stack.pop();
    const row = sy * width;
    if (scratch[row + sx]) continue;
    let begin = sx, end = sx + 1;
    while (begin > 0 && values[row + begin - 1] === value && !scratch[row + begin - 1]) begin--;
    while (end < width && values[row + end] === value && !scratch[row + end]) end++;
    scratch.fill(1, row + begin, row + end);
    box[0] = Math.min(box[0], begin);
    box[1] = Math.min(box[1], sy);
    box[2] = Math.max(box[2], end);
    box[3] = Math.max(box[3], sy + 1);
    for (const ny of [sy - 1, sy + 1]) {
      if (ny < 0 || ny >= height) continue;
      const near = ny * width;
      for (let nx = begin; nx < end; nx++) {
        const fits = values[near + nx] === value && !scratch[near + nx];
        if (fits && (nx === begin || values[near + nx - 1] !== value || scratch[near + nx - 1])) stack.push([nx, ny]);
      }
    }
  }
  return box;
}

// The edges between the region and the rest, in image coordinates.
export function outline(region) {
  const [left, top, right, bottom] = region.box;
  const width = right - left, height = bottom - top, inside = new Uint8Array(width * height);
  eachRun(region, (y, x0, x1) => inside.fill(1, (y - top) * width + x0 - left, (y - top) * width + x1 - left));
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height ? inside[y * width + x] : 0;
  const path = new Path2D();
  for (let y = 0; y <= height; y++) {  // horizontal edges, joined to long ones
    for (let x = 0; x < width; x++) {
      if (at(x, y) === at(x, y - 1)) continue;
      const begin = x;
      while (x < width && at(x, y) !== at(x, y - 1)) x++;
      path.moveTo(left + begin, top + y);
      path.lineTo(left + x, top + y);
    }
  }
  for (let x = 0; x <= width; x++) {
    for (let y = 0; y < height; y++) {
      if (at(x, y) === at(x - 1, y)) continue;
      const begin = y;
      while (y < height && at(x, y) !== at(x - 1, y)) y++;
      path.moveTo(left + x, top + begin);
      path.lineTo(left + x, top + y);
    }
  }
  return path;
}
