// Helpers for the tests and the measurements: they start a real Chromium and control the lab in it.

import { createServer } from "node:http";
import { readFile, mkdir, mkdtemp, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import puppeteer from "puppeteer-core";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "../../web/dist");
export const screenshots = join(here, "screenshots");

const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".wasm": "application/wasm", ".png": "image/png" };

/** Serves web/dist below `/some/folder/`, so that a link that is not relative fails; `compressed` by gzip, as servers do, and over a line
 * with so many `bytes` a second and that `delay` in milliseconds, which all requests share. */
export async function serve({ compressed = false, line } = {}) {
  const kept = new Map();
  const file = async (name) => {
    if (!kept.has(name)) kept.set(name, compressed ? gzipSync(await readFile(join(dist, name))) : await readFile(join(dist, name)));
    return kept.get(name);
  };
  const server = createServer(async (request, response) => {
    const name = new URL(request.url, "http://x").pathname.replace(/^\/some\/folder\//, "") || "index.html";
    try {
      if (name.includes("/")) throw new Error("outside the folder");
      response.setHeader("content-type", TYPES[extname(name)] ?? "application/octet-stream");
      const content = await file(name);
      if (compressed) response.setHeader("content-encoding", "gzip");
      if (line) await sent(content, response, line);
      response.end(line ? undefined : content);
    } catch {
      response.statusCode = 404;
      response.end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { address: `http://127.0.0.1:${server.address().port}/some/folder/`, close: () => (server.close(), server.closeAllConnections()) };
}

/** Sends `content` in parts, one at a time on the whole line. */
let busy = Promise.resolve();
async function sent(content, response, { bytes, delay }) {
  const PART = 16384;
  await new Promise((resolve) => setTimeout(resolve, delay));
  for (let at = 0; at < content.length; at += PART) {
    const part = content.subarray(at, at + PART);
    const before = busy;
    busy = (async () => {
      await before;
      await new Promise((resolve) => setTimeout(resolve, (1000 * part.length) / bytes));
      response.write(part);
    })();
    await busy;
  }
}

const QUIET = [
  "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
// Chromium's own software Vulkan, for machines without a GPU.
const WEBGPU = [
  "--enable-unsafe-webgpu", "--use-angle=swiftshader", "--enable-features=Vulkan", "--use-vulkan=swiftshader", "--ignore-gpu-blocklist",
];
// WebGL, which the panel needs, but no WebGPU.
const NO_WEBGPU = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"];
// Neither.
const NO_WEBGL = ["--disable-gpu", "--disable-software-rasterizer", "--disable-3d-apis"];

function executable() {
  const known = ["/usr/bin/chromium", "/usr/bin/google-chrome", "/usr/bin/chromium-browser"];
  const found = process.env.CHROMIUM ?? known.find(existsSync);
  if (!found) throw new Error("Chromium was not found: install it, or set CHROMIUM=PATH");
  return found;
}

/** How long a browser may take to start: from a cold disk beside other work, half a minute is not enough. */
const START = 180_000;

/** Starts a browser; `close` ends it and removes its profile. `scaled` are options for another size and scale of its window. */
export async function start({ webgpu = true, webgl = true, scaled = [] } = {}) {
  const profile = await mkdtemp(join(tmpdir(), "barlow-lab-"));
  const browser = await puppeteer.launch({
    executablePath: executable(),
    userDataDir: profile,
    args: [...QUIET, ...(webgl ? (webgpu ? WEBGPU : NO_WEBGPU) : NO_WEBGL), ...scaled],
    ...(scaled.length > 0 && { defaultViewport: null }),
    protocolTimeout: 600_000,
    timeout: START,
  });
  return {
    browser,
    close: async () => {
      await browser.close();
      // A process of the browser's may still write into it.
      await rm(profile, { recursive: true, force: true, maxRetries: 20 });
    },
  };
}

/** Where Firefox is, or nothing if it is not installed. */
export function firefox() {
  return [process.env.FIREFOX, "/usr/bin/firefox-esr", "/usr/bin/firefox"].find((path) => path && existsSync(path)) ?? null;
}

/** Starts Firefox with its defaults, without a window. */
export async function startFirefox() {
  const browser = await puppeteer.launch({ browser: "firefox", executablePath: firefox(), protocolTimeout: 600_000, timeout: START });
  return { browser, close: () => browser.close() };
}

/** Opens the lab with the settings in the link's `fragment`, on a page of that size; `null` leaves it as large as the window. */
export async function open(browser, address, fragment = "", size = { width: 1440, height: 900 }) {
  const page = await browser.newPage();
  if (size) await page.setViewport(size);
  return openOn(page, address, fragment);
}

/** Opens the lab on that page. */
export async function openOn(page, address, fragment) {
  const lab = new Lab(page);
  await page.goto(`${address}#${fragment}`);
  await page.waitForFunction(() => window.lab, { timeout: 120_000 });
  return lab;
}

/** The lab on a page. */
export class Lab {
  constructor(page) {
    this.page = page;
    page.setDefaultNavigationTimeout?.(120_000);
    /** Events that must never happen: panics, invalid calls, requests to other hosts. */
    this.complaints = [];
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    page.on("console", (message) => {
      const text = message.text();
      if (/panicked|uncaptured|Invalid|RuntimeError|unreachable/.test(text)) this.complaints.push(text);
    });
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (!["127.0.0.1", ""].includes(url.hostname)) this.complaints.push(`a request to ${url.hostname}`);
    });
  }

  status() {
    return this.page.evaluate(() => JSON.parse(window.lab.status()));
  }

  /** Waits until `wish` accepts the lab's status, and returns the status. `words` describes the wish in an error. */
  async until(wish, words, milliseconds = 300_000) {
    const end = Date.now() + milliseconds;
    for (;;) {
      const status = await this.status();
      // A lab that panicked while it was drawn has the same status ever after.
      const panic = this.complaints.find((text) => text.includes("panicked"));
      if (panic) throw new Error(panic);
      if (status.error) throw new Error(`${status.error}: ${status.messages.join("; ")}`);
      if (wish(status)) return status;
      if (Date.now() > end) {
        const { losses, diagonals, step_ms, frames_ms, runs, ...short } = status;
        throw new Error(`timed out waiting until ${words}: ${JSON.stringify(short)}; complaints: ${this.complaints.join("; ")}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** The bounding box of the widget with that accessible name. */
  async place(name, role) {
    if (role === null) {
      // A text, not a widget.
      const says = (name) => [...document.querySelectorAll("#accessible > span, #accessible > h2")].some((e) => e.textContent.includes(name));
      await this.page.waitForFunction(says, { timeout: 20_000 }, name);
      return null;
    }
    const selector = `#accessible [aria-label="${name}"]${role ? `[role="${role}"]` : ""}`;
    const element = await this.page.waitForSelector(selector, { timeout: 20_000 });
    // The mirror follows the panel a few times a second: it is there when it has stayed there.
    const pause = () => new Promise((resolve) => setTimeout(resolve, 400));
    let last = null;
    for (let tries = 0; tries < 50; tries++) {
      await pause();
      const box = await (await this.page.$(selector) ?? element).boundingBox();
      if (box && JSON.stringify(box) === JSON.stringify(last)) return box;
      last = box;
    }
    return last;
  }

  /** Clicks a widget where it is drawn. */
  async click(name, role) {
    const { x, y, width, height } = await this.place(name, role);
    await this.page.mouse.click(x + Math.min(width / 2, 20), y + height / 2);
  }

  /** Everything that a screen reader would read. */
  words() {
    return this.page.evaluate(() =>
      [...document.querySelectorAll("#accessible > *")].map((e) => e.getAttribute("aria-label") ?? e.textContent),
    );
  }

  /** Saves a screenshot of the page, and returns its bytes. */
  async picture(name) {
    await mkdir(screenshots, { recursive: true });
    return this.page.screenshot({ path: join(screenshots, `${name}.png`) });
  }

  /** Drops files, given by name and bytes, onto the page. */
  async drop(files) {
    await this.page.evaluate((files) => {
      const transfer = new DataTransfer();
      for (const { name, bytes } of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
      const canvas = document.getElementById("canvas");
      for (const type of ["dragover", "drop"]) canvas.dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true }));
    }, files.map(({ name, bytes }) => ({ name, bytes: [...bytes] })));
  }
}
