/** From what the visitor has set to what the model is asked. */

import type { Ask } from "./job";
import { between, latentOf, moved, weightsAt, type Point } from "./latents";
import type { Model } from "./model";
import type { Pixel, State } from "./state";

/** Return the latent at a point of the map, with directions and truncation. */
export function latentAt(model: Model, state: State, point: Point): Float32Array {
  const corners = state.corners.map((seed) => latentOf(seed, model.latent_dim));
  const steps = model.directions
    .filter(({ name }) => state.strengths[name])
    .map((each): [typeof each, number] => [each, state.strengths[each.name]]);
  return moved(between(corners, weightsAt(point)), steps).map((value) => state.truncation * value);
}

/** Return the gates: each layer's trained one times its factor; 0 where attention is left out. */
export function gatesOf(model: Model, state: State): Float32Array {
  return Float32Array.from(model.layers, ({ gate }, i) => {
    const isLeftOut = state.isWithoutAttention || (state.part === "convolution" && i === state.layer);
    return isLeftOut ? 0 : gate * state.factors[i];
  });
}

/** Ask for the pictures at some points, looked at from some pixels. */
export function askFor(model: Model, state: State, points: Point[], positions: Pixel[]): Ask {
  const latents = new Float32Array(points.length * model.latent_dim);
  points.forEach((point, i) => latents.set(latentAt(model, state, point), i * model.latent_dim));
  const row = model.labels.map(({ name }) => state.labels[name]);
  const isSilent = (i: number) => state.part === "attention" && i === state.layer && !state.isWithoutAttention;
  return {
    batch: points.length,
    latents,
    labels: row.length ? Float32Array.from(points.flatMap(() => row)) : null,
    gates: gatesOf(model, state),
    terms: Float32Array.from(model.layers.flatMap((_, i) => [isSilent(i) ? 0 : 1, 1])),
    positions: positions.length ? positions : [[0, 0]],
  };
}
