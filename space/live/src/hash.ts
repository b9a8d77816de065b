/** The state as the part of a link after #, and back. What a link holds is checked value by value. */

import type { Model } from "./model";
import { initial, lookingLayers, MAX_FACTOR, MAX_PINS, MAX_SEED, MAX_STRENGTH, PARTS, type Part, type Pixel, type State } from "./state";

const MAX_LENGTH = 8000;

/** Write only what differs from the model's beginning, so that links stay short; seeds always. */
export function toHash(state: State, model: Model): string {
  const start = initial(model);
  const { strengths, labels } = state;
  const fields: [string, string, boolean][] = [
    ["seeds", state.corners.map((seed, i) => `${seed}${state.locked[i] ? "!" : ""}`).join(","), true],
    ["at", `${round(state.point.x)},${round(state.point.y)}`, true],
    ["truncation", String(state.truncation), state.truncation !== 1],
    ["move", named(strengths), Object.values(strengths).some(Boolean)],
    ["labels", named(labels), named(labels) !== named(start.labels)],
    ["gates", state.factors.join(","), state.factors.some((factor) => factor !== 1)],
    ["without", "1", state.isWithoutAttention],
    ["layer", String(state.layer), state.layer !== start.layer],
    ["part", state.part, state.part !== "both"],
    ["pins", state.pins.map((pin) => pin.join("-")).join(","), state.pins.length > 0],
  ];
  const kept = fields.filter(([, , isKept]) => isKept);
  return kept.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2C", ",")}`).join("&");
}

/** Read a link's state; returns what could be read, and the names of the fields that could not. */
export function fromHash(hash: string, model: Model): { state: State; refused: string[] } {
  const state = initial(model);
  const refused: string[] = [];
  const text = hash.replace(/^#/, "");
  if (text.length > MAX_LENGTH) return { state, refused: ["the link is too long"] };
  for (const [name, value] of new URLSearchParams(text)) {
    const read = READERS[name];
    if (!read || !read(value, state, model)) refused.push((name || "?").slice(0, 30));
  }
  return { state, refused };
}

const READERS: Record<string, (value: string, state: State, model: Model) => boolean> = {
  __proto__: null as never,
  seeds: (value, state) => {
    const parts = value.split(",").map((part) => /^(\d{1,10})(!?)$/.exec(part));
    const seeds = parts.map((part) => Number(part?.[1] ?? NaN));
    if (seeds.length !== 4 || !seeds.every((seed) => seed <= MAX_SEED)) return false;
    state.corners = seeds;
    state.locked = parts.map((part) => part![2] === "!");
    return true;
  },
  at: (value, state) => {
    const numbers = value.split(",").map((each) => within(each, 0, 1));
    if (numbers.length !== 2 || numbers.includes(null)) return false;
    state.point = { x: numbers[0]!, y: numbers[1]! };
    return true;
  },
  truncation: (value, state) => {
    const number = within(value, 0.05, 1.5);
    if (number === null) return false;
    state.truncation = number;
    return true;
  },
  move: (value, state, model) => {
    const strengths = readNamed(value, new Set(model.directions.map(({ name }) => name)), -MAX_STRENGTH, MAX_STRENGTH);
    if (strengths) state.strengths = strengths;
    return strengths !== null;
  },
  labels: (value, state, model) => {
    const labels = readNamed(value, new Set(model.labels.map(({ name }) => name)), 0, 1);
    if (!labels) return false;
    for (const group of model.label_groups) {
      const total = group.reduce((sum, name) => sum + (labels[name] ?? 0), 0);
      if (group.length > 1 && total !== 1) return false;
    }
    state.labels = Object.fromEntries(model.labels.map(({ name }) => [name, labels[name] ?? 0]));
    return true;
  },
  gates: (value, state, model) => {
    const factors = value.split(",").map((each) => within(each, 0, MAX_FACTOR));
    if (factors.length !== model.layers.length || factors.includes(null)) return false;
    state.factors = factors as number[];
    return true;
  },
  without: (value, state) => {
    state.isWithoutAttention = value === "1";
    return value === "1";
  },
  layer: (value, state, model) => {
    const layer = lookingLayers(model).find((each) => String(each) === value);
    if (layer === undefined) return false;
    state.layer = layer;
    return true;
  },
  part: (value, state) => {
    if (!PARTS.includes(value as Part)) return false;
    state.part = value as Part;
    return true;
  },
  pins: (value, state, model) => {
    const pins = value.split(",", MAX_PINS + 1).map((pin) => /^(\d{1,4})-(\d{1,4})$/.exec(pin));
    const pixels = pins.map((pin): Pixel => [Number(pin?.[1] ?? NaN), Number(pin?.[2] ?? NaN)]);
    if (!pixels.flat().every((each) => each < model.image_size)) return false;
    state.pins = pixels.slice(0, MAX_PINS);
    return pixels.length <= MAX_PINS;
  },
};

function within(text: string, low: number, high: number): number | null {
  const number = /^-?\d{0,6}(\.\d{0,12})?$/.test(text) && text !== "" ? Number(text) : NaN;
  return number >= low && number <= high ? number : null;
}

function named(values: Record<string, number>): string {
  const kept = Object.entries(values).filter(([, value]) => value);
  return kept.map(([name, value]) => `${name}:${value}`).join(";");
}

function readNamed(text: string, names: Set<string>, low: number, high: number): Record<string, number> | null {
  const values: Record<string, number> = {};
  for (const part of text.split(";").filter(Boolean)) {
    const colon = part.lastIndexOf(":");
    const number = within(part.slice(colon + 1), low, high);
    if (!names.has(part.slice(0, colon)) || number === null) return null;
    values[part.slice(0, colon)] = number;
  }
  return values;
}

function round(value: number): number {
  return Math.round(value * 1e4) / 1e4;
}
