// Safari's engine: a page of WebKitGTK, controlled by WebDriver (https://www.w3.org/TR/webdriver2/), with those methods of
// puppeteer's pages that `Lab` uses.

import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";

const DRIVER = "/usr/bin/WebKitWebDriver";
// What Debian's and Ubuntu's package installs beside its library, in a folder that has the version's name.
const LIBRARIES = "/usr/lib/x86_64-linux-gnu";
// Where WebDriver's keys are in Unicode.
const KEYS = { Tab: "\uE004", Enter: "\uE007" };

/** The browser of WebKitGTK, or nothing if it is not installed. */
export function webkit() {
  if (!existsSync(DRIVER) || !existsSync(LIBRARIES)) return null;
  const folders = readdirSync(LIBRARIES).filter((name) => name.startsWith("webkit2gtk-4"));
  return folders.map((name) => join(LIBRARIES, name, "MiniBrowser")).find(existsSync) ?? null;
}

/** Starts it, and opens a page of that size; `close` ends both. */
export async function startWebKit({ width, height }) {
  const port = await freePort();
  // As root, in a container, its sandbox does not start.
  const env = { ...process.env, WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS: "1" };
  const driver = spawn(DRIVER, [`--port=${port}`], { env, stdio: "ignore" });
  const ask = async (method, path, body) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, body: body && JSON.stringify(body) });
    const { value } = await response.json();
    if (!response.ok) throw new Error(`${value.error}: ${value.message}`);
    return value;
  };
  try {
    const options = { binary: webkit(), args: ["--automation"] };
    const wanted = { capabilities: { alwaysMatch: { "webkitgtk:browserOptions": options } } };
    const { sessionId } = await again(() => ask("POST", "/session", wanted));
    const page = new WebDriverPage((method, path, body) => ask(method, `/session/${sessionId}${path}`, body));
    await page.setViewport({ width, height });
    return {
      page,
      close: async () => {
        try {
          await ask("DELETE", `/session/${sessionId}`);
        } finally {
          driver.kill();
        }
      },
    };
  } catch (error) {
    driver.kill();
    throw error;
  }
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Asks until it works: the driver takes a moment to listen. */
async function again(task) {
  for (let tries = 0; ; tries++) {
    try {
      return await task();
    } catch (error) {
      if (error.cause?.code !== "ECONNREFUSED" || tries === 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

class WebDriverPage {
  constructor(ask) {
    this.ask = ask;
    const actions = (type, id, list, more) => ask("POST", "/actions", { actions: [{ type, id, actions: list, ...more }] });
    this.mouse = {
      click: (x, y) =>
        actions("pointer", "mouse", [
          { type: "pointerMove", duration: 0, x: Math.round(x), y: Math.round(y) },
          { type: "pointerDown", button: 0 },
          // A press and a release in one frame would be a click too, but nobody's finger is so fast.
          { type: "pause", duration: 50 },
          { type: "pointerUp", button: 0 },
        ]),
    };
    this.keyboard = {
      press: (key) => actions("key", "keyboard", ["keyDown", "keyUp"].map((type) => ({ type, value: KEYS[key] ?? key }))),
    };
  }

  /** WebDriver tells no events of a page. */
  on() {}

  goto(url) {
    return this.ask("POST", "/url", { url });
  }

  evaluate(task, ...args) {
    const script = typeof task === "function" ? `return (${task}).apply(null, arguments)` : task;
    return this.ask("POST", "/execute/sync", { script, args });
  }

  async waitForFunction(task, { timeout = 30_000 } = {}, ...args) {
    for (const end = Date.now() + timeout; ; ) {
      const value = await this.evaluate(task, ...args);
      if (value) return value;
      if (Date.now() > end) throw new Error(`timed out waiting for ${task}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async waitForSelector(selector, options) {
    await this.waitForFunction((selector) => Boolean(document.querySelector(selector)), options, selector);
    return this.$(selector);
  }

  async $(selector) {
    const boundingBox = () =>
      this.evaluate((selector) => {
        const { x, y, width, height } = document.querySelector(selector).getBoundingClientRect();
        return { x, y, width, height };
      }, selector);
    return { boundingBox };
  }

  async focus(selector) {
    await this.evaluate((selector) => document.querySelector(selector).focus(), selector);
  }

  /** Makes the window so large that the page has this size. */
  async setViewport({ width, height }) {
    const rect = await this.ask("POST", "/window/rect", { width, height });
    const [inner_width, inner_height] = await this.evaluate(() => [innerWidth, innerHeight]);
    await this.ask("POST", "/window/rect", { width: rect.width + width - inner_width, height: rect.height + height - inner_height });
  }

  async screenshot({ path }) {
    const bytes = Buffer.from(await this.ask("GET", "/screenshot"), "base64");
    await writeFile(path, bytes);
    return bytes;
  }
}
