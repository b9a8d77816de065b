/** A tour of five steps. It starts by itself on the first visit only. */

import { element } from "./page";

const STEPS = [
  ["map", "A map of faces", "Four faces at the corners, and everything between them. Drag, and the face follows."],
  ["frame", "Point at the face", "The bright places are where that pixel looked when the network painted it. Click to pin it."],
  ["strip", "Coarse to fine", "The network paints in steps. Each has its own way of looking around; choose one to see it large."],
  ["without", "What if it didn't look?", "Switch attention off, and see what the neighborhood alone can do."],
  ["take", "Take it with you", "A picture, a walk, a link that brings back exactly this face, or the Python that makes it."],
] as const;
const SEEN = "fagan-live-tour-seen";

/** Offer the tour by its button, and start it if this browser has not seen it. */
export function offerTour(): void {
  let step = -1;
  let from: HTMLElement | null = null;
  const card = element("tour-card");
  const show = (next: number) => {
    if (step >= 0) element(STEPS[step][0]).classList.remove("toured");
    step = next < STEPS.length ? next : -1;
    card.hidden = step < 0;
    if (step < 0) {
      from?.focus();
      return;
    }
    const [id, title, text] = STEPS[step];
    const target = element(id);
    target.classList.add("toured");
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (step > 0) target.scrollIntoView({ block: "center", behavior: isCalm ? "auto" : "smooth" });
    element("tour-count").textContent = `${step + 1} of ${STEPS.length}`;
    element("tour-title").textContent = title;
    element("tour-text").textContent = text;
    element("tour-next").textContent = step + 1 < STEPS.length ? "Next" : "Done";
  };
  element("tour-next").addEventListener("click", () => show(step + 1));
  element("tour-end").addEventListener("click", () => show(STEPS.length));
  card.addEventListener("keydown", (event) => event.key === "Escape" && show(STEPS.length));
  element("tour").addEventListener("click", (event) => {
    from = event.currentTarget as HTMLElement;
    show(0);
    element("tour-next").focus();
  });
  if (isFirstVisit()) show(0);
}

function isFirstVisit(): boolean {
  try {
    const isSeen = localStorage.getItem(SEEN) !== null;
    localStorage.setItem(SEEN, "1");
    return !isSeen;
  } catch {
    return false; // storage is switched off: rather no tour than one on each visit
  }
}
