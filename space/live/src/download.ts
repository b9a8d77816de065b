/** What visitors take with them: a PNG, a walk as GIF or WebM, a link, Python. */

import { applyPalette, GIFEncoder, quantize } from "gifenc";
import { askFor } from "./ask";
import type { Generator } from "./generator";
import { toHash } from "./hash";
import type { Point } from "./latents";
import { element } from "./page";
import { enlarged, toPixels } from "./picture";
import { pythonOf } from "./python";
import type { Store } from "./state";

const FRAMES = 48; // of a walk around the map
const AT_ONCE = 8; // frames a pass
const FRAME_MS = 60;
const WALK_PIXELS = 256; // side of a walk's frames, at least
const MAX_SCALE = 32;

export function showDownloads(generator: Generator, store: Store, signal: AbortSignal): void {
  const { model } = generator;
  const say = (text: string) => (element("taken").textContent = text);
  const on = (id: string, action: () => void | Promise<void>) => {
    const button = element<HTMLButtonElement>(id);
    const run = async () => {
      button.disabled = true;
      try {
        await action();
      } catch (error) {
        say(`That did not work: ${error instanceof Error ? error.message : error}`);
      }
      button.disabled = false;
    };
    button.addEventListener("click", () => void run(), { signal });
  };
  const name = () => `face-${store.state.corners.join("-")}`;
  const walk = async () => {
    say("Walking …");
    const frames = await walkFrames(generator, store);
    return { frames, scale: Math.max(1, Math.round(WALK_PIXELS / model.image_size)) };
  };

  on("png", async () => {
    const input = element<HTMLInputElement>("scale");
    const scale = Math.min(MAX_SCALE, Math.max(1, Math.round(Number(input.value)) || 1));
    input.value = String(scale);
    const answer = await generator.later(askFor(model, store.state, [store.state.point], []));
    const canvas = enlarged(toPixels(answer.images, 0, model.channels, model.image_size), scale);
    const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
    if (!blob) throw new Error("the picture is too large for this browser; enlarge it less");
    save(blob, `${name()}.png`);
    say(`Saved, ${canvas.width} × ${canvas.height} pixels.`);
  });
  on("gif", async () => {
    const { frames, scale } = await walk();
    save(new Blob([toGif(frames, scale)], { type: "image/gif" }), `${name()}.gif`);
    say("Saved: a walk around the map.");
  });
  on("webm", async () => {
    if (typeof MediaRecorder === "undefined" || !MediaRecorder.isTypeSupported("video/webm")) {
      throw new Error("this browser records no WebM; take the GIF");
    }
    const { frames, scale } = await walk();
    save(await toWebm(frames, scale), `${name()}.webm`);
    say("Saved: a walk around the map.");
  });
  const link = () => {
    const url = new URL(location.href);
    url.hash = toHash(store.state, model);
    return url.href;
  };
  on("link", async () => {
    await navigator.clipboard.writeText(link());
    say("Copied. Whoever opens it sees exactly this.");
  });
  on("python", async () => {
    await navigator.clipboard.writeText(pythonOf(model, store.state));
    say("Copied.");
  });

  let timer = 0;
  const show = () => {
    element("code").textContent = pythonOf(model, store.state);
    clearTimeout(timer); // browsers refuse more than some changes of the address a second
    timer = window.setTimeout(() => signal.aborted || history.replaceState(null, "", link()), 300);
  };
  store.onChange(show);
  show();
}

/** Return the faces along the map's border, back to the start. */
async function walkFrames(generator: Generator, store: Store): Promise<ImageData[]> {
  const { model } = generator;
  const { state } = store;
  const points = Array.from({ length: FRAMES }, (_, i) => onBorder((4 * i) / FRAMES));
  const frames: ImageData[] = [];
  for (let start = 0; start < FRAMES; start += AT_ONCE) {
    const some = points.slice(start, start + AT_ONCE);
    const answer = await generator.later(askFor(model, state, some, []));
    some.forEach((_, i) => frames.push(toPixels(answer.images, i, model.channels, model.image_size)));
  }
  return frames;
}

/** Go around the square: 0 is the top left corner, 1 the top right, 2 the bottom right, 3 the bottom left. */
function onBorder(way: number): Point {
  const share = way % 1;
  return [{ x: share, y: 0 }, { x: 1, y: share }, { x: 1 - share, y: 1 }, { x: 0, y: 1 - share }][Math.floor(way) % 4];
}

function toGif(frames: ImageData[], scale: number): Uint8Array<ArrayBuffer> {
  const encoder = GIFEncoder();
  for (const frame of frames) {
    const palette = quantize(frame.data, 256);
    const canvas = enlarged(frame, scale);
    const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
    encoder.writeFrame(applyPalette(data, palette), canvas.width, canvas.height, { palette, delay: FRAME_MS });
  }
  encoder.finish();
  return encoder.bytes();
}

async function toWebm(frames: ImageData[], scale: number): Promise<Blob> {
  const canvas = enlarged(frames[0], scale);
  const recorder = new MediaRecorder(canvas.captureStream(), { mimeType: "video/webm", videoBitsPerSecond: 4_000_000 });
  const parts: Blob[] = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const stopped = new Promise((resolve) => (recorder.onstop = resolve));
  recorder.start();
  for (const frame of frames) {
    canvas.getContext("2d")!.drawImage(enlarged(frame, scale), 0, 0);
    await new Promise((resolve) => setTimeout(resolve, FRAME_MS));
  }
  recorder.stop();
  await stopped;
  return new Blob(parts, { type: "video/webm" });
}

function save(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
