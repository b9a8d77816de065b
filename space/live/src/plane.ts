/** The map of faces: four seeds at its corners, everything between them, and a handle to drag. */

import { askFor } from "./ask";
import type { Generator } from "./generator";
import type { Point } from "./latents";
import { build, element } from "./page";
import { paint, toPixels } from "./picture";
import { MAX_SEED, randomLabels, randomSeed, type State, type Store } from "./state";

const FACES = 6; // in a row and in a column
const AT_ONCE = 3; // small faces a pass: few, so that the large one never waits long
const QUIET = 120; // [ms] without a change before the small faces are drawn again
const CORNERS = ["Top left", "Top right", "Bottom left", "Bottom right"];
const STEP = 0.02; // of an arrow key

export function showPlane(generator: Generator, store: Store, signal: AbortSignal): void {
  const plane = element("plane");
  const drag = (event: PointerEvent) => {
    const box = plane.getBoundingClientRect();
    const share = (value: number) => Math.min(1, Math.max(0, value));
    store.set({ point: { x: share((event.clientX - box.left) / box.width), y: share((event.clientY - box.top) / box.height) } });
  };
  plane.addEventListener("pointerdown", (event) => {
    plane.setPointerCapture(event.pointerId);
    drag(event);
  }, { signal });
  plane.addEventListener("pointermove", (event) => plane.hasPointerCapture(event.pointerId) && drag(event), { signal });
  plane.addEventListener("keydown", (event) => {
    const [dx, dy] = ARROWS[event.key] ?? [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    const step = event.shiftKey ? 5 * STEP : STEP;
    const { x, y } = store.state.point;
    const share = (value: number) => Math.min(1, Math.max(0, Math.round(value * 1e4) / 1e4));
    store.set({ point: { x: share(x + dx * step), y: share(y + dy * step) } });
  }, { signal });

  const corners = CORNERS.map((name, i) => showCorner(name, i, store));
  element("corners-top").replaceChildren(...corners.slice(0, 2).map(({ box }) => box));
  element("corners-bottom").replaceChildren(...corners.slice(2).map(({ box }) => box));
  element("shuffle").addEventListener("click", () => {
    const { corners, locked } = store.state;
    store.set({
      corners: corners.map((seed, i) => (locked[i] ? seed : randomSeed())),
      point: locked.some(Boolean) ? store.state.point : { x: Math.random(), y: Math.random() },
      labels: randomLabels(generator.model),
    });
  }, { signal });
  element("undo").addEventListener("click", () => store.undo(), { signal });

  const faces = new SmallFaces(generator, store);
  const show = () => {
    const { x, y } = store.state.point;
    const handle = element("handle");
    handle.style.left = `${100 * x}%`;
    handle.style.top = `${100 * y}%`;
    plane.setAttribute("aria-valuenow", String(Math.round(100 * x)));
    plane.setAttribute("aria-valuetext", `${Math.round(100 * x)}% from the left, ${Math.round(100 * y)}% from the top`);
    element<HTMLButtonElement>("undo").disabled = !store.canUndo;
    for (const corner of corners) corner.show();
    faces.refresh();
  };
  store.onChange(show);
  show();
}

export const ARROWS: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

function showCorner(name: string, i: number, store: Store): { box: HTMLElement; show: () => void } {
  const seed = build("input", { type: "number", min: "0", max: String(MAX_SEED), step: "1" });
  seed.setAttribute("aria-label", `${name} seed`);
  const lock = build("button", { className: "icon", textContent: "Lock" });
  const change = <T>(list: T[], value: T) => list.map((each, k) => (k === i ? value : each));
  seed.addEventListener("change", () => {
    const number = Number(seed.value);
    const isSeed = seed.value !== "" && Number.isInteger(number) && number >= 0 && number <= MAX_SEED;
    if (isSeed) store.set({ corners: change(store.state.corners, number) });
    else seed.value = String(store.state.corners[i]);
  });
  lock.addEventListener("click", () => store.set({ locked: change(store.state.locked, !store.state.locked[i]) }));
  lock.setAttribute("aria-label", `Lock the ${name.toLowerCase()} face`);
  const show = () => {
    if (document.activeElement !== seed) seed.value = String(store.state.corners[i]);
    lock.setAttribute("aria-pressed", String(store.state.locked[i]));
  };
  return { box: build("div", { className: "corner" }, ...(i % 2 ? [lock, seed] : [seed, lock])), show };
}

/** The faces under the handle: drawn a few at a time, when nothing else has changed for a moment. */
class SmallFaces {
  private drawn = "";
  private timer: number | undefined;
  private round = 0;

  constructor(
    private readonly generator: Generator,
    private readonly store: Store,
  ) {}

  refresh(): void {
    const key = keyOf(this.store.state);
    if (key === this.drawn) return;
    this.drawn = key;
    this.round++;
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.draw(this.round), QUIET);
  }

  private async draw(round: number): Promise<void> {
    const { model } = this.generator;
    const size = model.image_size;
    const canvas = element<HTMLCanvasElement>("faces");
    if (canvas.width !== FACES * size) canvas.width = canvas.height = FACES * size;
    const context = canvas.getContext("2d")!;
    const small = document.createElement("canvas");
    for (let first = 0; first < FACES * FACES; first += AT_ONCE) {
      const places = Array.from({ length: AT_ONCE }, (_, i) => [(first + i) % FACES, Math.floor((first + i) / FACES)]);
      const points = places.map(([column, row]): Point => ({ x: column / (FACES - 1), y: row / (FACES - 1) }));
      const answer = await this.generator.later(askFor(model, this.store.state, points, [])).catch(() => null);
      if (!answer || round !== this.round) return;
      places.forEach(([column, row], i) => {
        paint(small, toPixels(answer.images, i, model.channels, size));
        context.drawImage(small, column * size, row * size);
      });
    }
  }
}

/** What the small faces depend on: all but the handle and where the visitor looks. */
function keyOf({ corners, truncation, strengths, labels, factors, isWithoutAttention, part, layer }: State): string {
  return JSON.stringify([corners, truncation, strengths, labels, factors, isWithoutAttention, part, part === "both" ? 0 : layer]);
}
