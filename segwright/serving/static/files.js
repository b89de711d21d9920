// Files to save, the command for programs, and images that are larger than the service takes.
export function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export function stem(name) {
  return name.replace(/\.[^.]{1,5}$/, "") || "image";
}

// CSV as `segwright predict --areas` names its columns; a field with a comma, quote or line break is quoted, and one
// that a spreadsheet would run as a formula begins with an apostrophe.
export function areasCsv(name, found) {
  const field = text => {
    const safe = /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
    return /[",\r\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  const rows = found.classes.map(one => [field(name), field(one.name), one.pixels, one.share.toFixed(6)].join(","));
  return new Blob(["image,class,pixels,share\n" + rows.join("\n") + "\n"], {type: "text/csv"});
}

function quoted(text) {
  return "'" + text.replaceAll("'", "'\\''") + "'";
}

// The key itself is never part of the command.
export function curlCommand(file, url, needsKey) {
  const key = needsKey ? " \\\n  -H \"Authorization: Bearer $SEGWRIGHT_KEY\"" : "";
  const type = file.type || "application/octet-stream";
  return "curl -H " + quoted("Content-Type: " + type) + key + " \\\n  --data-binary @" + quoted(file.name) +
    " \\\n  " + quoted(url);
}

// The clipboard of a page that is not served over HTTPS is out of reach: then the text is selected and copied.
export async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

// A JPEG of the image with at most so many pixels, upright; null if the browser cannot read it.
export async function shrunk(file, pixels) {
  const whole = await createImageBitmap(file).catch(() => null);
  if (!whole) return null;
  const scale = Math.min(1, Math.sqrt(pixels / (whole.width * whole.height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(whole.width * scale));
  canvas.height = Math.max(1, Math.floor(whole.height * scale));
  canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
  whole.close();
  const blob = await new Promise(resolve => canvas.toBlob(resolve, "image/jpeg", .92));
  return blob && new File([blob], stem(file.name) + ".jpg", {type: "image/jpeg"});
}
