// Requests to the service: the models, predictions with their progress, polygons; an API key where one is needed.
const KEPT = "segwright-key";

// What went wrong. kind: "lost" (no response), "key" (401), "busy" (503), "canceled", "refused".
export class Problem extends Error {
  constructor(kind, message, details = {}) {
    super(message);
    Object.assign(this, {kind, details});
  }

  get lines() {
    const {expected, found, fix} = this.details;
    return [expected && "Expected: " + expected, found && "Found: " + found, fix && "What helps: " + fix].filter(Boolean);
  }
}

export class Service {
  constructor() {
    this.chosen = null;  // name of a model; null: the service's first one
  }

  get key() {
    return sessionStorage.getItem(KEPT);
  }

  set key(text) {
    sessionStorage.setItem(KEPT, text);
  }

  headers() {
    return this.key ? {Authorization: "Bearer " + this.key} : {};
  }

  // Descriptions of the models that may be used, the default one first.
  async describe() {
    return (await this.get("models")).models;
  }

  async get(path) {
    let response;
    try {
      response = await fetch(path, {headers: this.headers()});
    } catch {
      throw lost();
    }
    const tree = await response.json().catch(() => ({}));
    if (!response.ok) throw problemOf(response.status, tree, response.headers.get("retry-after"));
    return tree;
  }

  path(query) {
    const model = this.chosen ? "models/" + encodeURIComponent(this.chosen) + "/" : "";
    return model + "predict?" + query;
  }

  // POST an image. progress(share) is called while it is sent; share 1: all is sent. Resolves to a Blob.
  send(file, query, {progress = () => {}, signal} = {}) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", this.path(query));
      request.responseType = "blob";
      request.setRequestHeader("Content-Type", "application/octet-stream");
      for (const [name, value] of Object.entries(this.headers())) request.setRequestHeader(name, value);
      request.upload.onprogress = event => event.lengthComputable && progress(event.loaded / event.total);
      request.upload.onload = () => progress(1);
      request.onerror = () => reject(lost());
      request.onabort = () => reject(new Problem("canceled", "Canceled."));
      request.onload = async () => {
        if (request.status === 200) return resolve(request.response);
        const tree = await request.response.text().then(JSON.parse).catch(() => ({}));
        reject(problemOf(request.status, tree, request.getResponseHeader("retry-after")));
      };
      signal?.addEventListener("abort", () => request.abort());
      request.send(file);
    });
  }

  async predict(file, detail, options) {
    const query = "as=json&mask=true" + (detail ? "&quality=true" : "");
    return JSON.parse(await (await this.send(file, query, options)).text());
  }
}

function lost() {
  return new Problem("lost", "The service does not answer.");
}

function problemOf(status, tree, retry) {
  const kind = status === 401 ? "key" : status === 503 || status === 429 ? "busy" : "refused";
  const message = tree.error || "The service answered with status " + status + ".";
  const sentence = message[0].toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? "" : ".");
  return new Problem(kind, sentence, {...tree, seconds: Number(retry) || 1, status});
}
