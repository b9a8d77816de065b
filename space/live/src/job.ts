/** What the page and its worker say to each other. */

export interface Ask {
  batch: number;
  latents: Float32Array;
  labels: Float32Array | null;
  gates: Float32Array;
  /** Factors on convolution and attention, per layer. */
  terms: Float32Array;
  /** (row, column) [pixels of the image]. */
  positions: [number, number][];
}

export interface Answer {
  /** [batch, channels, size, size] in [-1, 1]. */
  images: Float32Array;
  /** By layer: [batch, positions, rows, columns]. */
  attention: Float32Array[];
  /** By layer: root mean square over channels, [batch, height, width]. */
  convolution: Float32Array[];
  gathered: Float32Array[];
}

export interface Shapes {
  numLayers: number;
  latentDim: number;
  numLabels: number;
}

export type Runtime = "wasm" | "webgpu";

export type ToWorker =
  | { type: "warm" }
  | { type: "load"; bytes: ArrayBuffer; shapes: Shapes; tryGpu: boolean }
  | { type: "run"; ask: Ask };

export type FromWorker =
  | { type: "ready" }
  | { type: "runtime"; runtime: Runtime; threads: number }
  | { type: "answer"; answer: Answer }
  | { type: "failed"; message: string };
