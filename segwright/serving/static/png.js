// PNG files of one byte per pixel (gray or palette) as their values. A browser's own decoder gives colors instead of
// class indices, and some browsers change what a page reads from a canvas.
const KNOWN = "0,3";  // color types: gray, palette

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
}

// {width, height, values}: bytes → Uint8Array of width·height values.
export async function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let width = 0, height = 0;
  for (let at = 8; at + 8 <= bytes.length;) {
    const size = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IHDR") {
      [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)];
      const [depth, color, , , interlaced] = bytes.subarray(at + 16, at + 21);
      if (depth !== 8 || !KNOWN.includes(color) || interlaced) throw new Error("a PNG of another kind than expected");
    }
    if (kind === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + size));
    at += 12 + size;
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  if (rows.length !== height * (width + 1)) throw new Error("a PNG that is not whole");
  return {width, height, values: unfiltered(rows, width, height)};
}

// The five filters of the PNG specification, section 9.2, for one byte per pixel.
function unfiltered(rows, width, height) {
  const values = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (width + 1)];
    const from = y * (width + 1) + 1;
    const to = y * width;
    for (let x = 0; x < width; x++) {
      const left = x ? values[to + x - 1] : 0;
      const up = y ? values[to + x - width] : 0;
      const corner = x && y ? values[to + x - width - 1] : 0;
      const add = filter === 0 ? 0 : filter === 1 ? left : filter === 2 ? up : filter === 3 ? (left + up) >> 1
        : paeth(left, up, corner);
      values[to + x] = rows[from + x] + add;
    }
  }
  return values;
}

function paeth(left, up, corner) {
  const near = left + up - corner;
  const [a, b, c] = [Math.abs(near - left), Math.abs(near - up), Math.abs(near - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}
