/** Runs the model off the page's thread: WebAssembly first, WebGPU if it proves to be the same and faster. */

import * as wasm from "onnxruntime-web/wasm";
import wasmModule from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasmBinary from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import gpuModule from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url";
import gpuBinary from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import type { Answer, Ask, FromWorker, Runtime, Shapes, ToWorker } from "./job";

type Ort = Pick<typeof wasm, "InferenceSession" | "Tensor" | "env">;

class Engine {
  private constructor(
    private readonly ort: Ort,
    private readonly session: wasm.InferenceSession,
    private readonly shapes: Shapes,
    readonly runtime: Runtime,
  ) {}

  static async start(ort: Ort, runtime: Runtime, bytes: ArrayBuffer, shapes: Shapes): Promise<Engine> {
    configure(ort, runtime);
    const session = await ort.InferenceSession.create(bytes, {
      executionProviders: [runtime],
      graphOptimizationLevel: "all",
    });
    const wanted = ["latents", "gates", "terms", "positions", ...(shapes.numLabels ? ["labels"] : [])];
    const missing = wanted.filter((name) => !session.inputNames.includes(name));
    const alien = session.inputNames.filter((name) => !wanted.includes(name));
    if (missing.length || alien.length) {
      throw new Error(`it takes ${session.inputNames.join(", ").slice(0, 200)} instead of ${wanted.join(", ")}`);
    }
    return new Engine(ort, session, shapes, runtime);
  }

  async run(ask: Ask): Promise<Answer> {
    const { Tensor } = this.ort;
    const { numLayers, latentDim, numLabels } = this.shapes;
    const positions = BigInt64Array.from(ask.positions.flat(), BigInt);
    const feeds: Record<string, wasm.Tensor> = {
      latents: new Tensor("float32", ask.latents, [ask.batch, latentDim]),
      gates: new Tensor("float32", ask.gates, [numLayers]),
      terms: new Tensor("float32", ask.terms, [numLayers, 2]),
      positions: new Tensor("int64", positions, [ask.positions.length, 2]),
    };
    if (ask.labels) feeds.labels = new Tensor("float32", ask.labels, [ask.batch, numLabels]);
    const results = await this.session.run(feeds);
    const take = (name: string) => {
      const tensor = results[name];
      if (tensor?.type !== "float32") throw new Error(`it has no output ${name}`);
      return (tensor.data as Float32Array).slice();
    };
    const all = (name: string) => Array.from({ length: numLayers }, (_, layer) => take(`${name}_${layer}`));
    return { images: take("images"), attention: all("attention"), convolution: all("convolution"), gathered: all("gathered") };
  }
}

let engine: Engine | undefined;
let fallback: Engine | undefined; // WebAssembly, for a graphics processor that fails later

/** Threads need a page that is isolated from other origins; half of the processor stays free for the page. */
function threads(): number {
  return self.crossOriginIsolated ? Math.max(1, Math.min(4, Math.floor(navigator.hardwareConcurrency / 2))) : 1;
}

function configure(ort: Ort, runtime: Runtime): void {
  const [mjs, binary] = runtime === "wasm" ? [wasmModule, wasmBinary] : [gpuModule, gpuBinary];
  ort.env.wasm.wasmPaths = { mjs: absolute(mjs), wasm: absolute(binary) };
  ort.env.wasm.numThreads = threads();
  ort.env.logLevel = "fatal"; // errors are thrown as well, and told in the page's words
}

/** Compile the runtime. onnxruntime does so with the first session only, so it gets one that can't be. */
async function warm(): Promise<void> {
  configure(wasm, "wasm");
  await wasm.InferenceSession.create(new Uint8Array(1)).catch(() => undefined);
}

function absolute(path: string): string {
  return new URL(path, self.location.href).href;
}

function send(message: FromWorker, transfer: Transferable[] = []): void {
  (self as unknown as DedicatedWorkerGlobalScope).postMessage(message, transfer);
}

async function load(bytes: ArrayBuffer, shapes: Shapes, tryGpu: boolean): Promise<void> {
  engine = await Engine.start(wasm, "wasm", bytes, shapes);
  fallback = engine;
  send({ type: "ready" });
  report();
  if (tryGpu) await considerGpu(engine, bytes, shapes).catch(() => undefined); // any failure means: stay with WebAssembly
}

function report(): void {
  send({ type: "runtime", runtime: engine!.runtime, threads: threads() });
}

/** Take over with WebGPU if a probe gives the same image, and sooner. */
async function considerGpu(current: Engine, bytes: ArrayBuffer, shapes: Shapes): Promise<void> {
  if (!("gpu" in navigator) || !(await navigator.gpu.requestAdapter())) return;
  const ort = await import("onnxruntime-web/webgpu");
  const gpu = await Engine.start(ort, "webgpu", bytes, shapes);
  const probe = probeOf(shapes);
  await gpu.run(probe); // compiles
  const [one, slow] = await timed(() => current.run(probe));
  const [other, fast] = await timed(() => gpu.run(probe));
  const isSame = one.images.every((value, i) => Math.abs(value - other.images[i]) < 1 / 127.5);
  if (!isSame || fast >= slow || engine !== current) return;
  engine = gpu;
  report();
}

function probeOf({ latentDim, numLabels, numLayers }: Shapes): Ask {
  return {
    batch: 1,
    latents: Float32Array.from({ length: latentDim }, (_, i) => Math.sin(1 + i)),
    labels: numLabels ? new Float32Array(numLabels) : null,
    gates: new Float32Array(numLayers).fill(0.5),
    terms: new Float32Array(2 * numLayers).fill(1),
    positions: [[0, 0]],
  };
}

async function timed<T>(action: () => Promise<T>): Promise<[T, number]> {
  const start = performance.now();
  return [await action(), performance.now() - start];
}

async function run(ask: Ask): Promise<void> {
  let answer: Answer;
  try {
    answer = await engine!.run(ask);
  } catch (error) {
    if (engine === fallback) throw error;
    engine = fallback; // the graphics processor gave up
    report();
    answer = await engine!.run(ask);
  }
  const buffers = [answer.images, ...answer.attention, ...answer.convolution, ...answer.gathered].map((each) => each.buffer);
  send({ type: "answer", answer }, buffers as ArrayBuffer[]);
}

self.onmessage = async ({ data }: MessageEvent<ToWorker>) => {
  try {
    if (data.type === "warm") await warm();
    else if (data.type === "load") await load(data.bytes, data.shapes, data.tryGpu);
    else await run(data.ask);
  } catch (error) {
    send({ type: "failed", message: error instanceof Error ? error.message : String(error) });
  }
};
