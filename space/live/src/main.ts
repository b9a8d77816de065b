/** Opens a model, puts the page together, and opens another one when the visitor asks for it. */

import { showControls } from "./controls";
import { showDownloads } from "./download";
import { Generator, warmUp } from "./generator";
import { fromHash } from "./hash";
import { latentAt } from "./ask";
import { Look } from "./look";
import { loadFromFiles, loadFromHub, loadOwn, ModelError, type Model } from "./model";
import { element, notify } from "./page";
import { showPlane } from "./plane";
import { Store } from "./state";
import { offerTour } from "./tour";

const RUNTIMES = { wasm: "WebAssembly on your processor", webgpu: "WebGPU on your graphics processor" };

let opened: { generator: Generator; store: Store; look: Look; end: AbortController } | null = null;

async function open(load: (progress: (share: number) => void) => Promise<Model>, hash = ""): Promise<boolean> {
  const loading = element("loading");
  loading.hidden = false;
  notify("");
  let generator: Generator;
  try {
    const model = await load((share) => (element<HTMLProgressElement>("progress").value = share));
    element("loading-text").textContent = "Starting it …";
    generator = await Generator.start(model, (runtime, threads) => {
      const several = runtime === "wasm" && threads > 1 ? `, on ${threads} threads` : "";
      element("runtime").textContent = `Runs here, by ${RUNTIMES[runtime]}${several}. Nothing you do leaves your browser.`;
      document.documentElement.dataset.runtime = runtime;
    });
  } catch (error) {
    notify(error instanceof ModelError ? error.message : `The page failed: ${error instanceof Error ? error.message : error}`);
    loading.hidden = opened !== null;
    element("loading-text").textContent = "";
    element("progress").hidden = true;
    return false;
  }
  opened?.end.abort();
  opened?.generator.stop();
  const { model } = generator;
  const end = new AbortController();
  const { state, refused } = fromHash(hash, model);
  const store = new Store(state);
  const look = new Look(generator, store, end.signal);
  opened = { generator, store, look, end };
  if (refused.length) notify(`Some of this link can't be read and is left out: ${refused.slice(0, 5).join(", ")}.`);
  await look.refresh();
  loading.hidden = true;
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
  showPlane(generator, store, end.signal);
  showControls(model, store);
  showDownloads(generator, store, end.signal);
  return true;
}

async function openFiles(files: File[]): Promise<void> {
  if (files.length && (await open(() => loadFromFiles(files)))) leaveHub();
}

/** A dropped model has no address: keep that of another one out of links. */
function leaveHub(): void {
  const url = new URL(location.href);
  url.searchParams.delete("model");
  history.replaceState(null, "", url);
}

/** List the files of a drop; folders are opened one level deep. */
async function dropped(transfer: DataTransfer): Promise<File[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  const files: File[] = [];
  const take = async (entry: FileSystemEntry, depth: number): Promise<void> => {
    if (files.length > 200) return;
    if (entry.isFile) {
      files.push(await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)));
    } else if (depth < 2) {
      const reader = (entry as FileSystemDirectoryEntry).createReader();
      const inside = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
      for (const each of inside) await take(each, depth + 1);
    }
  };
  for (const entry of entries) await take(entry, 0);
  return files;
}

function offerOtherModels(): void {
  element("other").addEventListener("submit", (event) => {
    event.preventDefault();
    const url = new URL(location.href);
    url.hash = "";
    const id = element<HTMLInputElement>("model-id").value.trim();
    if (id) url.searchParams.set("model", id);
    else url.searchParams.delete("model");
    location.assign(url);
  });
  element("files").addEventListener("change", (event) => void openFiles([...((event.target as HTMLInputElement).files ?? [])]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer) void dropped(event.dataTransfer).then(openFiles);
  });
}

document.addEventListener("keydown", (event) => {
  const isUndo = event.key === "z" && (event.ctrlKey || event.metaKey) && !(event.target instanceof HTMLInputElement);
  if (isUndo) opened?.store.undo();
});
window.addEventListener("hashchange", () => {
  if (!opened) return;
  const { state, refused } = fromHash(location.hash, opened.generator.model);
  opened.store.replace(state);
  if (refused.length) notify(`Some of this link can't be read and is left out: ${refused.slice(0, 5).join(", ")}.`);
});

/** For the console, and for tests: what the page shows, in numbers. */
const fagan = {
  get state() {
    return opened?.store.state;
  },
  set: (change: object) => opened?.store.set(change),
  /** Pixels of the face, [size, size, 4], without a map over it. */
  get pixels() {
    return opened?.look.pixels ? [...opened.look.pixels.data] : null;
  },
  get latent() {
    return opened ? [...latentAt(opened.generator.model, opened.store.state, opened.store.state.point)] : null;
  },
  get attention() {
    return opened?.look.latest?.answer.attention.map((map) => [...map]);
  },
  get numDrawn() {
    return opened?.look.numDrawn ?? 0;
  },
};
Object.assign(window, { fagan });

async function start(): Promise<void> {
  warmUp();
  offerOtherModels();
  const id = new URLSearchParams(location.search).get("model");
  const isOpen = await open((progress) => (id ? loadFromHub(id, progress) : loadOwn(progress)), location.hash);
  if (isOpen) offerTour();
  if ("serviceWorker" in navigator && import.meta.env.PROD) {
    // Not there on some hosts and in private windows: the page then needs a connection each time.
    await navigator.serviceWorker.register("./offline.js").catch(() => undefined);
  }
}

void start();
