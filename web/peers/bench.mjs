// Times one training step of the same model in jax-js, TensorFlow.js and Barlow's lab,
// in the same headless browser. See README.md.

import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import puppeteer from "puppeteer-core";

const here = fileURLToPath(new URL(".", import.meta.url));
const warmUpSteps = 2;
const patience = 10 * 60 * 1000;
const patienceForStart = 2 * 60 * 1000;

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
// WebGPU on a machine without a GPU, with Chromium's own software Vulkan.
const chromiumFlags = [
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--enable-unsafe-webgpu",
  "--use-angle=swiftshader",
  "--enable-features=Vulkan",
  "--use-vulkan=swiftshader",
  "--ignore-gpu-blocklist",
];

// The peers' model as settings of the lab's link; only the bar is drawn.
const barlowModel = "encoder_width=8&grow=false&projector=64&batch=32&hide=course,controls,matrix,learned,views,data";

const contenders = {
  jax: { name: "jax-js 0.1.25", prepare: () => bundle("jax.js"), train: trainPeer, hash: "" },
  tfjs: { name: "TensorFlow.js 4.22.0", prepare: () => bundle("tfjs.js"), train: trainPeer, hash: "" },
  barlow: { name: "Barlow", prepare: openDist, train: trainBarlow, hash: `#device=gpu&${barlowModel}` },
  "barlow-cpu": { name: "Barlow, CPU", prepare: openDist, train: trainBarlow, hash: `#device=cpu&${barlowModel}` },
};

const { values: options } = parseArgs({
  options: {
    steps: { type: "string", default: "10" },
    dist: { type: "string", default: join(here, "../dist") },
    only: { type: "string", default: Object.keys(contenders).join(",") },
    json: { type: "string" },
  },
});
const steps = Number(options.steps);
const chosen = options.only.split(",");
if (!Number.isInteger(steps) || steps < 1) stop(`--steps takes a whole number of at least 1, not ${options.steps}`);
for (const key of chosen) {
  if (!contenders[key]) stop(`--only takes ${Object.keys(contenders).join(", ")}, not ${key}`);
}
if (!existsSync(chromium)) {
  stop(
    `There is no Chromium at ${chromium}. On Debian: apt-get install --no-install-recommends chromium mesa-vulkan-drivers libvulkan1\n` +
      "Elsewhere, set CHROMIUM to the path of a Chromium or Chrome.",
  );
}

function stop(message) {
  console.error(message);
  process.exit(1);
}

// --- what is served -------------------------------------------------------

/// Both of these return a function that returns the bytes of the file at a path.

async function bundle(entry) {
  const { outputFiles } = await build({
    entryPoints: [join(here, entry)],
    bundle: true,
    minify: true,
    // The peers load their WebGPU code on demand; code that is not fetched does not count.
    splitting: true,
    format: "esm",
    target: "esnext",
    outdir: here,
    write: false,
    logLevel: "warning",
  });
  const files = new Map(outputFiles.map((file) => [`/${file.path.slice(here.length)}`, Buffer.from(file.contents)]));
  files.set("/index.html", Buffer.from(`<!doctype html><script type="module" src="${entry}"></script>`));
  return (path) => files.get(path);
}

function openDist() {
  const dist = resolve(options.dist);
  if (!existsSync(join(dist, "index.html"))) return undefined;
  return (path) => {
    const file = join(dist, path);
    return file.startsWith(dist) ? readFile(file).catch(() => undefined) : undefined;
  };
}

const types = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
};

/// Serves on this machine only; 127.0.0.1 is a secure context, which WebGPU requires.
async function serve(read) {
  const codeSizes = new Map();
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const path = pathname === "/" ? "/index.html" : decodeURIComponent(pathname);
    const contents = await read(path);
    if (!contents) return response.writeHead(path === "/favicon.ico" ? 204 : 404).end();
    const type = types[extname(path)];
    if (type) codeSizes.set(path, gzipSync(contents, { level: 9 }).length);
    response.writeHead(200, { "content-type": type ?? "application/octet-stream" }).end(contents);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return {
    url: `http://127.0.0.1:${server.address().port}/index.html`,
    gzip: () => [...codeSizes.values()].reduce((sum, size) => sum + size, 0),
    close: () => server.close(),
  };
}

// --- how each one trains --------------------------------------------------

async function started(page, name) {
  await page.waitForFunction(name, { timeout: patienceForStart }).catch(async () => {
    const text = await page.evaluate(() => document.body.innerText.trim());
    throw new Error(`${name} did not start; the page says "${text}"`);
  });
}

/// Both trainers return { stepMilliseconds, wallMilliseconds, firstLoss, lastLoss, device }.

async function trainPeer(page) {
  await started(page, "window.step");
  const losses = [];
  const stepMilliseconds = [];
  let measuredFrom;
  while (losses.length < warmUpSteps + steps) {
    if (losses.length === warmUpSteps) measuredFrom = performance.now();
    const { loss, milliseconds } = await page.evaluate(async () => {
      const start = performance.now();
      const loss = await window.step();
      return { loss, milliseconds: performance.now() - start };
    });
    if (!Number.isFinite(loss)) throw new Error(`the loss of step ${losses.length + 1} is ${loss}`);
    losses.push(loss);
    stepMilliseconds.push(milliseconds);
  }
  const wallMilliseconds = (performance.now() - measuredFrom) / steps;
  if (losses.at(-1) >= losses[0]) throw new Error(`the loss did not fall: ${losses.join(", ")}`);
  const device = await page.evaluate(async () => {
    const { vendor, architecture, description } = (await navigator.gpu.requestAdapter()).info;
    return [vendor, architecture, description].filter(Boolean).join(" ");
  });
  return { stepMilliseconds, wallMilliseconds, firstLoss: losses[0], lastLoss: losses.at(-1), device };
}

async function trainBarlow(page) {
  await started(page, "window.lab");
  await page.evaluate(() => void window.lab.command("play"));
  let firstLoss;
  let measuredFrom;
  let progress = { step: 0, at: performance.now() };
  for (;;) {
    await sleep(50);
    const now = performance.now();
    const { step, loss, device, error, step_ms } = JSON.parse(await page.evaluate(() => window.lab.status()));
    if (error) throw new Error(error);
    if (step > 0 && !Number.isFinite(loss)) throw new Error(`the loss of step ${step} is ${loss}`);
    if (step > progress.step) progress = { step, at: now };
    if (now - progress.at > patience) throw new Error(`no step since step ${step}, for ${patience / 60000} minutes`);
    if (step >= 1) firstLoss ??= loss;
    if (step >= warmUpSteps) measuredFrom ??= { step, at: now };
    if (step < warmUpSteps + steps) continue;
    if (step_ms.length < warmUpSteps + steps) throw new Error(`step ${step}, but only ${step_ms.length} step times`);
    // The lab does not wait for the benchmark: it may have done a few more steps already.
    const wallMilliseconds = (now - measuredFrom.at) / (step - measuredFrom.step);
    return { stepMilliseconds: step_ms.slice(0, warmUpSteps + steps), wallMilliseconds, firstLoss, lastLoss: loss, device };
  }
}

// --- one contender in a browser of its own ---------------------------------

// Chromium reports an invalid shader, pipeline or command buffer only as a warning and skips the work: it looks fast.
const gpuError = / - While |parsing WGSL|GPUDevice.*lost/;

async function measure({ name, train, hash }, read) {
  const server = await serve(read);
  const browser = await puppeteer.launch({
    executablePath: chromium,
    headless: true,
    args: chromiumFlags,
    protocolTimeout: patience,
  });
  try {
    const page = await browser.newPage();
    const failed = new Promise((_, fail) => {
      const hear = (level, text) => (level === "error" || gpuError.test(text)) && fail(new Error(text));
      page.on("pageerror", fail);
      page.on("error", fail);
      page.on("console", (message) => hear(message.type(), message.text()));
      // Chromium's own messages about a worker do not reach the page's console.
      page.on("workercreated", ({ client }) => {
        client.on("Log.entryAdded", ({ entry }) => hear(entry.level, entry.text));
        client.send("Log.enable").catch(() => {}); // The worker may have gone.
      });
    });
    // It may be rejected before the race below awaits it, which node would treat as an unhandled error.
    failed.catch(() => {});
    await page.goto(server.url + hash);
    const trained = await Promise.race([train(page), failed]);
    return { name, ...trained, gzip: server.gzip(), browser: await browser.version(), ...summary(trained.stepMilliseconds) };
  } finally {
    await browser.close();
    server.close();
  }
}

function summary(stepMilliseconds) {
  const sorted = stepMilliseconds.slice(warmUpSteps).sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, minimum: sorted[0], first: stepMilliseconds[0] };
}

// --- the whole benchmark ----------------------------------------------------

const results = {};
const failures = [];
for (const key of chosen) {
  const contender = contenders[key];
  const read = await contender.prepare();
  if (!read) {
    console.error(`Barlow is skipped: ${options.dist} has no index.html. Build it first with \`cargo xtask lab --build\`.`);
    continue;
  }
  console.error(`${contender.name}: ${warmUpSteps} + ${steps} steps ...`);
  try {
    results[key] = await measure(contender, read);
  } catch (error) {
    failures.push(`${contender.name}: ${error?.message ?? error}`);
  }
}

const { jax, tfjs, barlow } = results;
if (jax && tfjs && Math.abs(jax.firstLoss - tfjs.firstLoss) > 1e-3 * jax.firstLoss) {
  failures.push(`the peers do not train the same model: their first losses are ${jax.firstLoss} and ${tfjs.firstLoss}`);
}

const row = (...cells) => console.log(cells.map((cell, index) => (index ? cell.padStart(11) : cell.padEnd(22))).join(""));
if (Object.keys(results).length) {
  row("ms per step", "median", "minimum", "wall clock", "first step", "first loss", "last loss", "gzip KB");
}
for (const { name, median, minimum, wallMilliseconds, first, firstLoss, lastLoss, gzip } of Object.values(results)) {
  const milliseconds = [median, minimum, wallMilliseconds, first].map((value) => value.toFixed(1));
  row(name, ...milliseconds, firstLoss.toFixed(3), lastLoss.toFixed(3), (gzip / 1000).toFixed(0));
}
for (const { name, device, browser } of Object.values(results)) console.log(`${name}: ${device}, ${browser}`);

// Without an adapter the lab trains on the CPU: its time is valid, but not one of WebGPU.
const barlowOnGpu = barlow && !/^CPU\b/.test(barlow.device);
if (barlow && !barlowOnGpu) failures.push(`Barlow trained without WebGPU, its device is "${barlow.device}": no comparison`);

let ratio;
const peers = [jax, tfjs].filter(Boolean).sort((a, b) => a.median - b.median);
if (barlowOnGpu && peers.length) {
  ratio = peers[0].median / barlow.median;
  console.log(`The fastest peer, ${peers[0].name}, takes ${ratio.toFixed(2)} times Barlow's median.`);
}
const onCpu = results["barlow-cpu"];
if (onCpu && peers.length) {
  console.log(`The fastest peer takes ${(peers[0].median / onCpu.median).toFixed(2)} times Barlow's median on the CPU, which the lab chooses by itself here.`);
}

if (options.json) {
  await writeFile(options.json, `${JSON.stringify({ steps, warmUpSteps, results, ratio, failures }, null, 2)}\n`);
}
for (const failure of failures) console.error(`FAILED: ${failure}`);
process.exitCode = failures.length ? 1 : 0;
