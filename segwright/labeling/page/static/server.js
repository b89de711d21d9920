// Requests to the label server. An error has the status (0: not reached) and lines to show.
export class ServerError extends Error {
  constructor(status, lines) {
    super(lines.join("\n"));
    this.status = status;
    this.lines = lines;
  }
}

async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, {credentials: "same-origin", cache: "no-store", ...options});
  } catch {
    throw new ServerError(0, ["the server cannot be reached"]);
  }
  if (response.ok) return response;
  let lines = ["the server reports an error (" + response.status + ")"];
  try {
    const found = await response.json();
    lines = [found.error, found.expected && "expected: " + found.expected, found.found && "found: " + found.found,
      found.fix && "fix: " + found.fix].filter(Boolean);
  } catch { /* no JSON: a proxy's page */ }
  throw new ServerError(response.status, lines);
}

export async function getJson(path) {
  return parsed(await send(path));
}

export async function getBlob(path) {
  return (await send(path)).blob();
}

export async function getRuns(path) {
  const response = await send(path);
  try {
    return {runs: new Uint32Array(await response.arrayBuffer()), headers: response.headers};
  } catch {
    throw new ServerError(0, ["the server's answer was cut short"]);
  }
}

export async function postJson(path, tree) {
  const options = {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(tree)};
  return parsed(await send(path, options));
}

// A connection that ends in the middle of an answer is a server that was not reached.
async function parsed(response) {
  try {
    return await response.json();
  } catch {
    throw new ServerError(0, ["the server's answer was cut short"]);
  }
}

export function beacon(path, tree) {
  navigator.sendBeacon(path, new Blob([JSON.stringify(tree)], {type: "application/json"}));
}

export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
}
