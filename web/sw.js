// Keeps the lab for visits without a network: what was loaded once is answered from the cache when the network is away.
// The network comes first, so that a new version is seen at once.
const CACHE = "barlow-lab";
const FILES = ["./", "./index.html", "./lab.js", "./lab_bg.wasm", "./worker.js", "./trainer.js", "./trainer_bg.wasm", "./teach.html"];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES.map((file) => new Request(file, { cache: "force-cache" })))).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || new URL(event.request.url).origin !== location.origin) return;
  event.respondWith(
    fetch(event.request)
      .then((response) => {
        if (response.ok) {
          const copy = response.clone();
          event.waitUntil(caches.open(CACHE).then((cache) => cache.put(event.request, copy)));
        }
        return response;
      })
      .catch(() => caches.match(event.request, { ignoreSearch: true }).then((kept) => kept ?? Response.error())),
  );
});
