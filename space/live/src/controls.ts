/** The sliders and choices beside the face: labels, directions, truncation, attention; layers in the details. */

import { overlap } from "./latents";
import type { Direction, Model } from "./model";
import { build, element } from "./page";
import { MAX_FACTOR, MAX_STRENGTH, type Store } from "./state";
import { byColumn, columnWords, nameWords, valueWords } from "./words";

const DRAGS = 0.3; // cosine above which one direction visibly drags another along
const MAX_DRAGGED = 3;

type Show = () => void;

export function showControls(model: Model, store: Store): void {
  const shows: Show[] = [
    ...showLabels(model, store),
    ...showDirections(model, store),
    ...showNetwork(model, store),
    ...showLayers(model, store),
  ];
  const facts: [string, string][] = [["model", model.name], ...model.facts];
  element("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [build("dt", { textContent: nameWords(name) }), build("dd", { textContent: value })]),
  );
  const show = () => shows.forEach((each) => each());
  store.onChange(show);
  show();
}

function heading(text: string): HTMLElement {
  return build("h2", { textContent: text });
}

function showLabels(model: Model, store: Store): Show[] {
  const box = element("labels");
  box.replaceChildren();
  if (!model.labels.length) return [];
  box.append(heading("Choose"));
  return model.label_groups.map((group) => {
    const setOnly = (chosen: string | null) =>
      store.set({ labels: { ...store.state.labels, ...Object.fromEntries(group.map((name) => [name, Number(name === chosen)])) } });
    const name = build("span", { textContent: columnWords(group[0]) });
    if (group.length === 1) {
      const check = build("input", { type: "checkbox" });
      check.addEventListener("change", () => setOnly(check.checked ? group[0] : null));
      box.append(build("div", { className: "control" }, build("label", { className: "name" }, name, check)));
      return () => (check.checked = store.state.labels[group[0]] > 0.5);
    }
    const select = choice(group);
    select.addEventListener("change", () => setOnly(select.value));
    box.append(build("div", { className: "control" }, build("label", { className: "name" }, name, select)));
    return () => (select.value = group.find((each) => store.state.labels[each] > 0.5) ?? group[0]);
  });
}

function choice(names: string[]): HTMLSelectElement {
  return build("select", {}, ...names.map((name) => build("option", { value: name, textContent: valueWords(name) })));
}

function showDirections(model: Model, store: Store): Show[] {
  const box = element("directions");
  box.replaceChildren();
  const columns = byColumn(model.directions.map(({ name }) => name));
  if (!columns.length) return [];
  const reset = build("button", { textContent: "Reset" });
  reset.addEventListener("click", () => store.set({ strengths: {} }));
  // An attribute on its own first, such as a beard: it shows at once what a slider does.
  columns.sort((a, b) => Number(a.length > 1) - Number(b.length > 1));
  box.append(heading("More or less of"));
  const shows = columns.map((names) => showDirection(names, box, model.directions, store));
  box.append(build("div", { className: "row" }, reset));
  return [...shows, () => (reset.disabled = !Object.values(store.state.strengths).some(Boolean))];
}

function showDirection(names: string[], box: HTMLElement, directions: Direction[], store: Store): Show {
  let chosen = names[0];
  const slider = range(-MAX_STRENGTH, MAX_STRENGTH, 0.05);
  const note = build("p", { className: "note" });
  const select = names.length > 1 ? choice(names) : null;
  const title = build("span", { textContent: columnWords(chosen) });
  const set = (strength: number) => {
    const others = Object.entries(store.state.strengths).filter(([name]) => !names.includes(name));
    store.set({ strengths: { ...Object.fromEntries(others), ...(strength ? { [chosen]: strength } : {}) } });
  };
  slider.addEventListener("input", () => set(Number(slider.value)));
  slider.addEventListener("dblclick", () => set(0));
  select?.addEventListener("change", () => {
    chosen = select.value;
    set(Number(slider.value));
  });
  select?.setAttribute("aria-label", `${columnWords(chosen)}: which`);
  box.append(build("div", { className: "control" }, build("div", { className: "name" }, title, ...(select ? [select] : [])), slider, note));
  return () => {
    chosen = names.find((name) => store.state.strengths[name]) ?? chosen;
    if (select) select.value = chosen;
    const strength = store.state.strengths[chosen] ?? 0;
    slider.value = String(strength);
    slider.setAttribute("aria-label", nameWords(chosen));
    note.textContent = strength ? dragged(chosen, names, directions) : "";
    note.hidden = !note.textContent;
  };
}

/** Say which other directions this one overlaps with: they change along with it. */
function dragged(chosen: string, siblings: string[], directions: Direction[]): string {
  const own = directions.find(({ name }) => name === chosen)!;
  const found = directions
    .filter(({ name }) => !siblings.includes(name))
    .map((other) => ({ name: other.name, cosine: overlap(own, other) }))
    .filter(({ cosine }) => Math.abs(cosine) > DRAGS)
    .sort((a, b) => Math.abs(b.cosine) - Math.abs(a.cosine))
    .slice(0, MAX_DRAGGED)
    .map(({ name, cosine }) => `${cosine < 0 ? "less " : ""}“${nameWords(name)}”`);
  return found.length ? `Drags along: ${found.join(", ")}` : "";
}

function range(min: number, max: number, step: number): HTMLInputElement {
  return build("input", { type: "range", min: String(min), max: String(max), step: String(step) });
}

function labeled(title: string, slider: HTMLInputElement, output: HTMLOutputElement): HTMLElement {
  return build("div", { className: "control" }, build("label", {}, build("span", { className: "name" }, title, output), slider));
}

function showNetwork(model: Model, store: Store): Show[] {
  const box = element("network");
  const dial = range(0, MAX_FACTOR, 0.05);
  const dialed = build("output");
  dial.addEventListener("input", () => store.set({ factors: model.layers.map(() => Number(dial.value)) }));
  const truncation = range(0.2, 1.2, 0.05);
  const truncated = build("output");
  truncation.addEventListener("input", () => store.set({ truncation: Number(truncation.value) }));
  box.replaceChildren(
    ...(model.layers.length ? [labeled("How much it listens to attention", dial, dialed)] : []),
    labeled("Ordinary to unusual", truncation, truncated),
  );
  return [
    () => {
      const { factors } = store.state;
      const mean = factors.reduce((sum, factor) => sum + factor, 0) / (factors.length || 1);
      const isEven = factors.every((factor) => factor === factors[0]);
      dial.value = String(mean);
      dialed.textContent = !isEven ? "mixed" : mean === 1 ? "as trained" : mean === 0 ? "not at all" : `${mean}×`;
    },
    () => {
      truncation.value = String(store.state.truncation);
      truncated.textContent = String(store.state.truncation);
    },
  ];
}

function showLayers(model: Model, store: Store): Show[] {
  const head = ["Layer", "Looks from", "at", "Heads", "Gate", "Trained", "Now", ""];
  const shows: Show[] = [];
  const rows = model.layers.map((layer, i) => {
    const slider = range(0, MAX_FACTOR, 0.05);
    slider.setAttribute("aria-label", `Gate of ${layer.name}, as a multiple of the trained one`);
    slider.addEventListener("input", () => {
      store.set({ factors: store.state.factors.map((factor, k) => (k === i ? Number(slider.value) : factor)) });
    });
    const now = build("td");
    shows.push(() => {
      slider.value = String(store.state.factors[i]);
      now.textContent = (layer.gate * store.state.factors[i]).toFixed(3);
    });
    const texts = [layer.name, layer.query_shape.join("×"), layer.key_shape.join("×"), String(layer.heads), layer.gate_name];
    const cells = [...texts, layer.gate.toFixed(3)].map((textContent) => build("td", { textContent }));
    return build("tr", {}, ...cells, now, build("td", {}, slider));
  });
  const titles = head.map((textContent) => build(textContent ? "th" : "td", { textContent }));
  element("layers").replaceChildren(build("thead", {}, build("tr", {}, ...titles)), build("tbody", {}, ...rows));
  return shows;
}
