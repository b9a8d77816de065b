/** Latents: of a seed, between four seeds, along directions. The same formulas as fagan_hf.latent_space. */

import type { Direction } from "./model";
import { randn } from "./random";

export interface Point {
  /** From 0 (left) to 1 (right). */
  x: number;
  /** From 0 (top) to 1 (bottom). */
  y: number;
}

const cache = new Map<string, Float32Array>();

/** Return the latent of a seed; remembers the last few, since each drag asks for the same four. */
export function latentOf(seed: number, latentDim: number): Float32Array {
  const key = `${seed}/${latentDim}`;
  let latent = cache.get(key);
  if (!latent) {
    latent = randn(latentDim, seed);
    if (cache.size > 64) cache.clear();
    cache.set(key, latent);
  }
  return latent;
}

/** Return the four bilinear weights of a point: top left, top right, bottom left, bottom right. */
export function weightsAt({ x, y }: Point): number[] {
  return [(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y];
}

/** Blend corners so that the result is standard normal again, and exactly a corner's latent at a corner. */
export function between(corners: Float32Array[], weights: number[]): Float32Array {
  const length = Math.hypot(...weights);
  return corners[0].map((_, i) => corners.reduce((sum, corner, k) => sum + weights[k] * corner[i], 0) / length);
}

/** Move a latent along directions, and rescale it to its length. */
export function moved(latent: Float32Array, steps: [Direction, number][]): Float32Array {
  if (!steps.length) return latent;
  const result = latent.map((value, i) => steps.reduce((sum, [each, strength]) => sum + strength * each.vector[i], value));
  const scale = Math.hypot(...latent) / Math.hypot(...result);
  return result.map((value) => value * scale);
}

/** Return the cosine of the angle between two directions. */
export function overlap(one: Direction, other: Direction): number {
  const dot = one.vector.reduce((sum, value, i) => sum + value * other.vector[i], 0);
  return dot / (Math.hypot(...one.vector) * Math.hypot(...other.vector) || 1);
}
