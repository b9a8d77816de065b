/** The large face and the strip below it: point to see where every layer looks from there. */

import { askFor } from "./ask";
import { meanMap, overlaid, strength, type Heat } from "./attention";
import type { Generator } from "./generator";
import type { Answer } from "./job";
import { build, element, notify } from "./page";
import { paint, toPixels } from "./picture";
import { ARROWS } from "./plane";
import { lookingLayers, MAX_PINS, type Part, type Pixel, type Store } from "./state";

const PART_NAMES: Record<Part, string> = {
  both: "Both, as trained",
  convolution: "Neighborhood only",
  attention: "Attention only",
};

export class Look {
  private pointed: Pixel | null = null;
  private readonly face = element<HTMLCanvasElement>("face");
  private readonly tiles = new Map<number, { button: HTMLButtonElement; canvas: HTMLCanvasElement }>();
  private readonly parts = new Map<Part, HTMLButtonElement>();
  /** The newest answer, and the pixels that it was asked from. */
  latest: { answer: Answer; pixels: Pixel[] } | null = null;
  pixels: ImageData | null = null;
  numDrawn = 0;

  constructor(
    private readonly generator: Generator,
    private readonly store: Store,
    signal: AbortSignal,
  ) {
    this.buildStrip();
    this.listen(signal);
    store.onChange(() => void this.refresh());
  }

  /** Ask for what is shown, and show it unless something newer was asked meanwhile. */
  async refresh(): Promise<void> {
    const { state } = this.store;
    const pixels = this.seenFrom();
    let answer: Answer | null;
    try {
      answer = await this.generator.look(askFor(this.generator.model, state, [state.point], pixels));
    } catch (error) {
      notify(`The model failed: ${error instanceof Error ? error.message.slice(0, 300) : error}`);
      return;
    }
    if (!answer) return;
    this.latest = { answer, pixels };
    this.draw(answer, pixels);
  }

  /** The pixels to look from: the one pointed at; else the pinned ones; else the middle. */
  private seenFrom(): Pixel[] {
    if (this.pointed) return [this.pointed];
    const { pins } = this.store.state;
    const middle = Math.floor(this.generator.model.image_size / 2);
    return pins.length ? pins : [[middle, middle]];
  }

  private buildStrip(): void {
    const { model } = this.generator;
    const looking = lookingLayers(model);
    for (const [place, i] of looking.entries()) {
      const canvas = build("canvas", { width: model.image_size, height: model.image_size });
      const [rows, columns] = model.layers[i].query_shape;
      const button = build("button", { type: "button" }, canvas, `${rows}×${columns}`);
      button.setAttribute("aria-label", `Step ${place + 1} of ${looking.length}, ${rows}×${columns}: show it large`);
      button.addEventListener("click", () => this.store.set({ layer: i }));
      this.tiles.set(i, { button, canvas });
    }
    element("strip").replaceChildren(...[...this.tiles.values()].map(({ button }) => button));
    for (const part of ["both", "convolution", "attention"] as const) {
      const button = build("button", { type: "button", textContent: PART_NAMES[part] });
      button.addEventListener("click", () => this.store.set({ part }));
      this.parts.set(part, button);
    }
    element("parts").replaceChildren(...this.parts.values());
    element("branches").hidden = element("strip-title").hidden = !looking.length;
  }

  private listen(signal: AbortSignal): void {
    const { face, store } = this;
    const size = this.generator.model.image_size;
    const clamp = (value: number) => Math.min(size - 1, Math.max(0, value));
    const at = (event: PointerEvent | MouseEvent): Pixel => {
      const box = face.getBoundingClientRect();
      const place = (offset: number, length: number) => clamp(Math.floor((offset / length) * size));
      return [place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width)];
    };
    const point = (pixel: Pixel | null) => {
      if (String(pixel) === String(this.pointed)) return;
      this.pointed = pixel;
      void this.refresh();
    };
    face.addEventListener("pointermove", (event) => point(at(event)), { signal });
    face.addEventListener("pointerleave", () => point(null), { signal });
    face.addEventListener("pointercancel", () => point(null), { signal });
    face.addEventListener("click", (event) => this.pin(at(event)), { signal });
    face.addEventListener("blur", () => point(null), { signal });
    face.addEventListener("keydown", (event) => {
      const [dx, dy] = ARROWS[event.key] ?? [0, 0];
      const [row, column] = this.pointed ?? store.state.pins.at(-1) ?? [size >> 1, size >> 1];
      if (dx || dy) point([clamp(row + dy), clamp(column + dx)]);
      else if (event.key === "Enter" || event.key === " ") this.pin([row, column]);
      else if (event.key === "Escape") store.set({ pins: [] });
      else return;
      event.preventDefault();
    }, { signal });
    element("unpin").addEventListener("click", () => store.set({ pins: [] }), { signal });
    element("without").addEventListener("click", () => {
      store.set({ isWithoutAttention: !store.state.isWithoutAttention });
    }, { signal });
  }

  /** Pin a pixel, or take its pin away. */
  pin(pixel: Pixel): void {
    const { pins } = this.store.state;
    const others = pins.filter((each) => String(each) !== String(pixel));
    if (others.length === MAX_PINS) {
      notify(`${MAX_PINS} pixels are pinned, which is as many as stay readable. Remove some first.`);
      return;
    }
    this.store.set({ pins: others.length < pins.length ? others : [...pins, pixel] });
  }

  private draw(answer: Answer, seenFrom: Pixel[]): void {
    const { model } = this.generator;
    const { state } = this.store;
    const picture = toPixels(answer.images, 0, model.channels, model.image_size);
    this.pixels = picture;
    const isLooking = this.pointed !== null || state.pins.length > 0;
    const wanted = seenFrom.map((_, i) => i);
    const heats = new Map<number, Heat>();
    for (const [i, { button, canvas }] of this.tiles) {
      const heat = meanMap(answer.attention[i], model.layers[i].key_shape, wanted);
      heats.set(i, heat);
      paint(canvas, overlaid(picture, heat));
      button.setAttribute("aria-pressed", String(i === state.layer));
    }
    const shown = heats.get(state.layer);
    const isOverlaid = isLooking && shown && !state.isWithoutAttention;
    paint(this.face, isOverlaid ? overlaid(picture, shown) : picture);
    this.drawBranches(answer);
    this.drawMarks();
    for (const [part, button] of this.parts) button.setAttribute("aria-pressed", String(part === state.part));
    element("without").setAttribute("aria-pressed", String(state.isWithoutAttention));
    element("unpin").hidden = !state.pins.length;
    this.numDrawn++;
  }

  private drawBranches(answer: Answer): void {
    const { layer } = this.store.state;
    if (layer < 0) return;
    const shape = this.generator.model.layers[layer].query_shape;
    const [plain, gathered] = [answer.convolution[layer], answer.gathered[layer]];
    const most = [...plain, ...gathered].reduce((a, b) => Math.max(a, b), 0);
    paint(element<HTMLCanvasElement>("convolution"), strength(plain, shape, most));
    paint(element<HTMLCanvasElement>("gathered"), strength(gathered, shape, most));
  }

  private drawMarks(): void {
    const share = 100 / this.generator.model.image_size;
    const mark = ([row, column]: Pixel, className: string) => {
      const box = build("div", { className });
      Object.assign(box.style, { left: `${column * share}%`, top: `${row * share}%`, width: `${share}%`, height: `${share}%` });
      return box;
    };
    const pins = this.store.state.pins.map((pin) => mark(pin, "mark"));
    element("marks").replaceChildren(...pins, ...(this.pointed ? [mark(this.pointed, "mark hover")] : []));
  }
}
