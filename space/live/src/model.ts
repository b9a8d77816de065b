/** The border: a model comes from this page's folder, the Hub or a disk, and is not trusted until it is checked here. */

export interface Layer {
  name: string;
  gate: number;
  gate_name: string;
  query_shape: [number, number];
  key_shape: [number, number];
  heads: number;
}

export interface Direction {
  name: string;
  vector: Float32Array;
}

export interface Model {
  name: string;
  /** Hub id or folder, as Python's from_pretrained takes it. */
  source: string;
  /** Hub id if it comes from there, for links; "" otherwise. */
  hubId: string;
  bytes: ArrayBuffer;
  image_size: number;
  channels: number;
  latent_dim: number;
  labels: { name: string; frequency: number }[];
  label_groups: string[][];
  directions: Direction[];
  layers: Layer[];
  facts: [string, string][];
}

/** A problem with a model, in words for the visitor. */
export class ModelError extends Error {}

type Progress = (share: number) => void;

const FORMAT = "fagan_hf.web";
const VERSION = 1;
const MAX_MODEL_BYTES = 256 * 2 ** 20;
const MAX_TEXT_BYTES = 8 * 2 ** 20;
const MAX_SIZE = 1024; // [pixels]
const MAX_LAYERS = 64;
const MAX_LATENT = 4096;
const MAX_NAMES = 512;
const HUB_ID = /^[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9][\w.-]{0,95}$/;
const EXPORT_HINT = "Its owner can add one with: fagan-hf export MODEL --format web";

/** Load the model beside the page. */
export async function loadOwn(progress: Progress): Promise<Model> {
  return loadFrom(new URL("model/", document.baseURI), "the page's own model", "", progress);
}

/** Load another repository's export from the Hub. */
export async function loadFromHub(id: string, progress: Progress): Promise<Model> {
  if (!HUB_ID.test(id) || id.includes("..")) {
    throw new ModelError(`“${id.slice(0, 80)}” is not the name of a model; write it like user/name.`);
  }
  const hub = document.querySelector<HTMLMetaElement>('meta[name="hub"]')!.content;
  return loadFrom(new URL(`${hub}/${id}/resolve/main/web/`), id, id, progress);
}

async function loadFrom(folder: URL, what: string, hubId: string, progress: Progress): Promise<Model> {
  const text = await download(new URL("web.json", folder), MAX_TEXT_BYTES, what);
  const card = check(parse(text, what), what, hubId);
  const bytes = await download(new URL(card.file, folder), card.num_bytes, what, (loaded) =>
    progress(loaded / card.num_bytes),
  );
  return finish(card, bytes, what);
}

/** Load an export that was dropped on the page: a folder, or its two files. */
export async function loadFromFiles(files: File[]): Promise<Model> {
  const json = files.find((file) => file.name === "web.json");
  const what = "what you dropped";
  if (!json) {
    const onnx = files.find((file) => file.name.endsWith(".onnx"));
    throw new ModelError(
      onnx
        ? `${onnx.name} alone doesn't say what its layers and labels are: drop the whole web/ folder, or web.json with it.`
        : `There is no web.json in ${what}. Drop the web/ folder that “fagan-hf export MODEL --format web” writes.`,
    );
  }
  if (json.size > MAX_TEXT_BYTES) throw new ModelError(`web.json has ${megabytes(json.size)}; at most 8 MB are read.`);
  const card = check(parse(await json.arrayBuffer(), what), what, "");
  const onnx = files.find((file) => file.name === card.file);
  if (!onnx) throw new ModelError(`web.json names ${card.file}, which is not in ${what}.`);
  if (onnx.size > card.num_bytes) throw new ModelError(`${card.file} is larger than web.json says; export it again.`);
  return finish(card, await onnx.arrayBuffer(), what);
}

async function finish(card: Checked, bytes: ArrayBuffer, what: string): Promise<Model> {
  if (bytes.byteLength !== card.num_bytes) {
    throw new ModelError(
      `The model of ${what} is incomplete: ${bytes.byteLength} of ${card.num_bytes} bytes. Reload, or export it again.`,
    );
  }
  // Only pages of a secure origin have crypto.subtle: https, or localhost.
  if (crypto.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== card.sha256) {
      throw new ModelError(`The model of ${what} is damaged: its SHA-256 is not that of web.json. Export it again.`);
    }
  }
  return { ...card, bytes };
}

async function download(url: URL, limit: number, what: string, loaded?: Progress): Promise<ArrayBuffer> {
  let response: Response;
  try {
    response = await fetch(url, { credentials: "omit" });
  } catch (error) {
    throw new ModelError(`${what} can't be reached. Are you online?`, { cause: error });
  }
  if (response.status === 404 || response.status === 401 || response.status === 403) {
    throw new ModelError(`${what} has no export for the browser, is private, or doesn't exist. ${EXPORT_HINT}`);
  }
  if (!response.ok || !response.body) throw new ModelError(`${what} answered with an error (${response.status}).`);
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let count = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error: unknown) => {
      throw new ModelError(`The download of ${what} broke off after ${megabytes(count)}. Reload to try again.`, {
        cause: error,
      });
    });
    if (done) break;
    count += value.length;
    if (count > limit) {
      await reader.cancel();
      throw new ModelError(`A file of ${what} is larger than the ${megabytes(limit)} allowed or announced.`);
    }
    chunks.push(value);
    loaded?.(count);
  }
  return new Blob(chunks).arrayBuffer();
}

function parse(bytes: ArrayBuffer, what: string): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new ModelError(`web.json of ${what} is not JSON, or cut off. Export the model again.`, { cause: error });
  }
}

type Checked = Omit<Model, "bytes"> & { file: string; num_bytes: number; sha256: string };
type Json = Record<string, unknown>;

function check(json: unknown, what: string, hubId: string): Checked {
  const refuse = (why: string): never => {
    throw new ModelError(`web.json of ${what} is not one of fagan_hf's: ${why}.`);
  };
  const record = (value: unknown, name: string): Json =>
    typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : refuse(`${name} is no object`);
  const text = (value: unknown, name: string, length = 200): string =>
    typeof value === "string" && value.length <= length ? value : refuse(`${name} is no short text`);
  const number = (value: unknown, name: string, low: number, high: number): number =>
    typeof value === "number" && value >= low && value <= high ? value : refuse(`${name} is not from ${low} to ${high}`);
  const whole = (value: unknown, name: string, low: number, high: number): number =>
    Number.isInteger(value) ? number(value, name, low, high) : refuse(`${name} is no whole number`);
  const list = (value: unknown, name: string, limit: number): unknown[] =>
    Array.isArray(value) && value.length <= limit ? value : refuse(`${name} is no list of at most ${limit}`);
  const shape = (value: unknown, name: string): [number, number] => {
    const [rows, columns] = list(value, name, 2);
    return [whole(rows, name, 1, MAX_SIZE), whole(columns, name, 1, MAX_SIZE)];
  };

  const root = record(json, "it");
  if (root.format !== FORMAT) refuse(`its format is ${JSON.stringify(root.format ?? null).slice(0, 40)}`);
  if (root.version !== VERSION) {
    throw new ModelError(
      `${what} was exported in version ${String(root.version).slice(0, 20)} of the format; this page reads version ` +
        `${VERSION}. Export it again with the fagan_hf of this page.`,
    );
  }
  const num_bytes = whole(root.num_bytes, "num_bytes", 1, Number.MAX_SAFE_INTEGER);
  if (num_bytes > MAX_MODEL_BYTES) {
    throw new ModelError(`${what} has ${megabytes(num_bytes)}; this page loads at most ${megabytes(MAX_MODEL_BYTES)}.`);
  }
  const file = text(root.model, "model", 100);
  if (!/^[\w-][\w.-]*\.onnx$/.test(file)) refuse("model is no name of an .onnx file");
  const latent_dim = whole(root.latent_dim, "latent_dim", 1, MAX_LATENT);
  const channels = whole(root.channels, "channels", 1, 4);
  if (channels === 2) refuse("channels is 2");
  const labels = list(root.labels, "labels", MAX_NAMES).map((each) => {
    const label = record(each, "a label");
    return { name: text(label.name, "a label's name"), frequency: number(label.frequency, "a frequency", 0, 1) };
  });
  const label_groups = list(root.label_groups, "label_groups", MAX_NAMES).map((each) =>
    list(each, "a group", MAX_NAMES).map((name) => text(name, "a label's name")),
  );
  const names = label_groups.flat();
  if (names.length !== labels.length || labels.some((label) => !names.includes(label.name))) {
    refuse("label_groups don't hold each label once");
  }
  return {
    name: text(root.name, "name"),
    source: hubId || text(root.name, "name"),
    hubId,
    file,
    num_bytes,
    sha256: text(root.sha256, "sha256", 64),
    image_size: whole(root.image_size, "image_size", 1, MAX_SIZE),
    channels,
    latent_dim,
    labels,
    label_groups,
    directions: list(root.directions, "directions", MAX_NAMES).map((each) => {
      const direction = record(each, "a direction");
      const vector = list(direction.vector, "a vector", MAX_LATENT).map((x) => number(x, "a vector's value", -1e6, 1e6));
      if (vector.length !== latent_dim) refuse(`a direction has ${vector.length} of ${latent_dim} numbers`);
      return { name: text(direction.name, "a direction's name"), vector: Float32Array.from(vector) };
    }),
    layers: list(root.layers, "layers", MAX_LAYERS).map((each) => {
      const layer = record(each, "a layer");
      return {
        name: text(layer.name, "a layer's name"),
        gate: number(layer.gate, "a gate", -1e6, 1e6),
        gate_name: text(layer.gate_name, "gate_name", 40),
        query_shape: shape(layer.query_shape, "query_shape"),
        key_shape: shape(layer.key_shape, "key_shape"),
        heads: whole(layer.heads, "heads", 1, 1024),
      };
    }),
    facts: Object.entries(record(root.facts ?? {}, "facts"))
      .filter(([, value]) => ["string", "number", "boolean"].includes(typeof value))
      .slice(0, 40)
      .map(([name, value]) => [name.slice(0, 60), String(value).slice(0, 400)]),
  };
}

function megabytes(count: number): string {
  return `${(count / 2 ** 20).toFixed(count < 2 ** 20 ? 2 : 0)} MB`;
}
