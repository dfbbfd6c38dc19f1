// Keeps the lab for visits without a network. The network comes first, so that a new version is seen at once. Each version has a
// cache of its own, which is filled as a whole: files of two versions do not work with each other.
const VERSION = "VERSION"; // `cargo xtask lab` writes a hash of the files instead
// Caches belong to a whole origin, which may have another lab in another folder.
const PREFIX = `barlow-lab ${registration.scope} `;
const CACHE = PREFIX + VERSION;
const FILES = [
  "./", "./index.html", "./lab.js", "./lab_bg.wasm", "./worker.js", "./trainer.js", "./trainer_bg.wasm", "./teach.html", "./fashion-mnist.png",
];
// The browser asks the server whether what it has kept by itself is up to date.
const FRESH = { cache: "no-cache" };

self.addEventListener("install", (event) => {
  const fill = async () => {
    const cache = await caches.open(CACHE);
    await cache.addAll(FILES.map((file) => new Request(file, FRESH)));
    await self.skipWaiting();
  };
  event.waitUntil(fill());
});

self.addEventListener("activate", (event) => {
  const clean = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(clean());
});

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || new URL(event.request.url).origin !== location.origin) return;
  const kept = async () => {
    const cache = await caches.open(CACHE);
    return (await cache.match(event.request, { ignoreSearch: true, ignoreVary: true })) ?? Response.error();
  };
  event.respondWith(fetch(event.request, FRESH).catch(kept));
});
