/** Everything the visitor can set, with undo. A link holds exactly this. */

import type { Point } from "./latents";
import type { Model } from "./model";

export const MAX_PINS = 8;
export const MAX_SEED = 2 ** 32 - 1;
export const MAX_STRENGTH = 4;
export const MAX_FACTOR = 2;
export const PARTS = ["both", "convolution", "attention"] as const;
export type Part = (typeof PARTS)[number];
export type Pixel = [row: number, column: number];

export interface State {
  /** Seeds at the corners: top left, top right, bottom left, bottom right. */
  corners: number[];
  locked: boolean[];
  point: Point;
  truncation: number;
  /** By name of a direction; those not named are 0. */
  strengths: Record<string, number>;
  /** By name of a label: 0 or 1 for each. */
  labels: Record<string, number>;
  /** Factor on each trained gate; 1 is as trained. */
  factors: number[];
  isWithoutAttention: boolean;
  /** The layer shown over the picture. */
  layer: number;
  /** What the shown layer hands on. */
  part: Part;
  pins: Pixel[];
}

/** Return what a model opens with: a place between four seeds, labels as most of its training data. */
export function initial(model: Model): State {
  return {
    corners: [7, 12, 36, 45],
    locked: [false, false, false, false],
    point: { x: 0.2, y: 0.2 },
    truncation: 1,
    strengths: {},
    labels: commonLabels(model),
    factors: model.layers.map(() => 1),
    isWithoutAttention: false,
    layer: firstLayer(model),
    part: "both",
    pins: [],
  };
}

/** Return the layers that have somewhere to look: more than one key. */
export function lookingLayers(model: Model): number[] {
  return model.layers.flatMap(({ key_shape: [rows, columns] }, i) => (rows * columns > 1 ? [i] : []));
}

/** Choose the first layer with the finest keys. */
function firstLayer(model: Model): number {
  const area = (i: number) => model.layers[i].key_shape[0] * model.layers[i].key_shape[1];
  return lookingLayers(model).reduce((best, i) => (best < 0 || area(i) >= area(best) ? i : best), -1);
}

function commonLabels(model: Model): Record<string, number> {
  const frequency = new Map(model.labels.map(({ name, frequency }) => [name, frequency]));
  const labels: Record<string, number> = {};
  for (const group of model.label_groups) {
    const most = group.reduce((best, name) => (frequency.get(name)! > frequency.get(best)! ? name : best), group[0]);
    for (const name of group) labels[name] = Number(group.length > 1 && name === most);
  }
  return labels;
}

/** Draw labels with their frequencies in the training data. */
export function randomLabels(model: Model): Record<string, number> {
  const frequency = new Map(model.labels.map(({ name, frequency }) => [name, frequency]));
  const labels: Record<string, number> = {};
  for (const group of model.label_groups) {
    let left = Math.random() * (group.length > 1 ? group.reduce((sum, name) => sum + frequency.get(name)!, 0) : 1);
    for (const name of group) {
      labels[name] = Number(left >= 0 && left < frequency.get(name)!);
      left -= frequency.get(name)!;
    }
  }
  return labels;
}

export function randomSeed(): number {
  return Math.floor(Math.random() * 10_000);
}

const MAX_UNDO = 100;
const ONE_GESTURE = 700; // [ms] changes closer than this are undone together

/** Holds the state; listeners hear every change. */
export class Store {
  private readonly past: State[] = [];
  private lastChange = 0;
  private readonly listeners: (() => void)[] = [];

  constructor(private current: State) {}

  get state(): State {
    return this.current;
  }

  set(change: Partial<State>): void {
    const now = performance.now();
    if (now - this.lastChange > ONE_GESTURE) this.past.push(this.current);
    if (this.past.length > MAX_UNDO) this.past.shift();
    this.lastChange = now;
    this.replace({ ...this.current, ...change });
  }

  undo(): void {
    const before = this.past.pop();
    this.lastChange = 0;
    if (before) this.replace(before);
  }

  get canUndo(): boolean {
    return this.past.length > 0;
  }

  /** Take over another state without a step of undo. */
  replace(state: State): void {
    this.current = state;
    for (const listener of this.listeners) listener();
  }

  onChange(listener: () => void): void {
    this.listeners.push(listener);
  }
}
