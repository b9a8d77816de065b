/** Service worker: keeps the page, its runtime and its own model, so that it works without a connection. */

const FILES = /* filled in by vite.config.ts */ [];
const PREFIX = "fagan-live-"; // other pages of the same host have caches, too
const CACHE = PREFIX + "VERSION";

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)));
});

self.addEventListener("activate", (event) => {
  const isOld = (name) => name.startsWith(PREFIX) && name !== CACHE;
  const removeOld = (names) => Promise.all(names.filter(isOld).map((name) => caches.delete(name)));
  event.waitUntil(caches.keys().then(removeOld).then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  // Files named by their content never change; others are asked for first, and kept for when there is no answer.
  const isNamedByContent = new URL(request.url).pathname.includes("/assets/");
  event.respondWith(isNamedByContent ? kept(request).then((found) => found ?? fetch(request)) : fresh(request));
});

function kept(request) {
  return caches.open(CACHE).then((cache) => cache.match(request, { ignoreSearch: true }));
}

async function fresh(request) {
  try {
    return await fetch(request);
  } catch (error) {
    const found = await kept(request);
    if (!found) throw error;
    return found;
  }
}
