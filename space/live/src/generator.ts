/** The generator as the page sees it: asks are answered one after the other, the newest look first. */

import type { Answer, Ask, FromWorker, Runtime, ToWorker } from "./job";
import { ModelError, type Model } from "./model";

interface Waiting {
  ask: Ask;
  resolve: (answer: Answer | null) => void;
  reject: (error: Error) => void;
}

/** A WebAssembly module with a single v128 constant: valid only where SIMD is. */
const SIMD_PROBE = new Uint8Array([
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 22, 1, 20, 0, 253, 12],
  ...new Array<number>(16).fill(0),
  11,
]);

let spare: Worker | null = null;

/** Start a worker that compiles its runtime, meanwhile the model is downloaded. */
export function warmUp(): void {
  spare = newWorker();
  spare.postMessage({ type: "warm" } satisfies ToWorker);
}

function newWorker(): Worker {
  return new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
}

export class Generator {
  private newest: Waiting | null = null;
  private readonly patient: Waiting[] = [];
  private running: Waiting | null = null;

  private constructor(
    private readonly worker: Worker,
    readonly model: Model,
  ) {}

  /** Start a worker with the model; `onRuntime` hears where it runs. */
  static start(model: Model, onRuntime: (runtime: Runtime, threads: number) => void): Promise<Generator> {
    if (typeof WebAssembly === "undefined" || !WebAssembly.validate(SIMD_PROBE)) {
      throw new ModelError("This browser has no WebAssembly SIMD, which the model needs. Update it, or try another one.");
    }
    const worker = spare ?? newWorker();
    spare = null;
    const generator = new Generator(worker, model);
    return new Promise((resolve, reject) => {
      const refuse = (why: string) => {
        worker.terminate();
        reject(new ModelError(`The model can't be run: ${why.slice(0, 300)}. Is it an export of fagan_hf?`));
      };
      worker.onerror = (event) => refuse(event.message || "its worker did not start");
      worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
        if (data.type === "ready") resolve(generator);
        else if (data.type === "runtime") onRuntime(data.runtime, data.threads);
        else if (data.type === "answer") generator.finish((each) => each.resolve(data.answer));
        else if (generator.running) generator.finish((each) => each.reject(new Error(data.message)));
        else refuse(data.message);
      };
      const shapes = {
        numLayers: model.layers.length,
        latentDim: model.latent_dim,
        numLabels: model.labels.length,
      };
      generator.post({ type: "load", bytes: model.bytes, shapes, tryGpu: "gpu" in navigator });
    });
  }

  /** Ask for what is shown next; resolves to null if a newer ask replaced this one. */
  look(ask: Ask): Promise<Answer | null> {
    this.newest?.resolve(null);
    return new Promise((resolve, reject) => {
      this.newest = { ask, resolve, reject };
      this.next();
    });
  }

  /** Ask for something that can wait: it is never dropped. */
  async later(ask: Ask): Promise<Answer> {
    const answer = await new Promise<Answer | null>((resolve, reject) => {
      this.patient.push({ ask, resolve, reject });
      this.next();
    });
    if (!answer) throw new Error("the model was replaced");
    return answer;
  }

  stop(): void {
    this.worker.terminate();
    for (const each of [this.running, this.newest, ...this.patient.splice(0)]) each?.resolve(null);
    this.running = this.newest = null;
  }

  private next(): void {
    if (this.running) return;
    this.running = this.newest ?? this.patient.shift() ?? null;
    if (this.running === this.newest) this.newest = null;
    if (this.running) this.post({ type: "run", ask: this.running.ask });
  }

  private finish(action: (waiting: Waiting) => void): void {
    const done = this.running;
    this.running = null;
    this.next();
    if (done) action(done);
  }

  private post(message: ToWorker): void {
    this.worker.postMessage(message);
  }
}
