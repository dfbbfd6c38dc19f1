// Tests of the lab in Firefox, and in WebKitGTK, which has Safari's engine. Both find no GPU on machines like CI's, and then train on
// the CPU. They need `firefox-esr` and `webkit2gtk-driver`, and a display (`xvfb-run`), without which neither offers WebGL.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { firefox, open, openOn, serve, start, startFirefox } from "./browser.mjs";
import { startWebKit, webkit } from "./webdriver.mjs";

const SIZE = { width: 1440, height: 900 };
const SMALL = "device=cpu&batch=32&projector=32&encoder_width=4&warmup=0&epochs=400&grow=false";
const STEPS = 3;

/** Why an engine is not tested, or `false`. */
const missing = (found, name) => {
  if (!found) return `${name} is not installed`;
  return process.env.DISPLAY ? false : "there is no display: start this by xvfb-run";
};
const ENGINES = [
  {
    name: "Firefox",
    skip: missing(firefox(), "firefox-esr"),
    advice: /about:config/,
    page: async () => {
      const { browser, close } = await startFirefox();
      try {
        const page = await browser.newPage();
        await page.setViewport(SIZE);
        return { page, close };
      } catch (error) {
        await close();
        throw error;
      }
    },
  },
  {
    name: "WebKit",
    skip: missing(webkit(), "webkit2gtk-driver"),
    advice: /Safari 26/,
    page: () => startWebKit(SIZE),
  },
];

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The losses of the first steps. */
async function losses(lab) {
  for (let step = 1; step <= STEPS; step++) {
    await lab.page.evaluate(() => window.lab.command("step"));
    await lab.until((s) => s.step === step, `step ${step} is done`);
  }
  return (await lab.status()).losses;
}

let server;
let expected;
before(async () => {
  server = await serve();
  if (ENGINES.every((engine) => engine.skip)) return;
  const chromium = await start({ webgpu: false });
  // A browser that is left open keeps the tests from ending.
  try {
    const lab = await open(chromium.browser, server.address, SMALL);
    await lab.until((s) => s.device, "Chromium has a device");
    expected = await losses(lab);
  } finally {
    await chromium.close();
  }
});
after(() => server.close());

for (const engine of ENGINES) {
  describe(engine.name, { skip: engine.skip }, () => {
    let started;
    afterEach(async () => {
      await started?.close();
      started = undefined;
    });
    // Each test has a browser of its own: a page left while it trains has now and then kept the driver from opening the next one.
    const opened = async (fragment) => {
      started = await engine.page();
      const lab = await openOn(started.page, server.address, fragment);
      // WebDriver tells no events of a page, so that the page itself takes them down.
      await lab.page.evaluate(() => {
        window.complaints = [];
        const add = (words) => window.complaints.push(String(words));
        addEventListener("error", (event) => add(event.message));
        addEventListener("unhandledrejection", (event) => add(event.reason));
        const tell = console.error;
        console.error = (...words) => (add(words.join(" ")), tell(...words));
      });
      const status = await lab.until((s) => s.device, "a device is open");
      return { lab, status };
    };
    const complaints = async (lab) => [
      ...lab.complaints,
      ...(await lab.page.evaluate(() => window.complaints)),
      ...(await lab.status()).messages,
    ];

    test("computes what Chromium computes", async () => {
      const { lab } = await opened(SMALL);
      // WebAssembly fixes every operation on floats, and the lab brings its own functions: each bit is the same.
      assert.deepEqual(await losses(lab), expected);
    });

    test("trains by one click, and turns pages in two languages", async () => {
      const { lab, status: before } = await opened("lang=en&theme=light");
      assert.match(before.device, /CPU/);
      assert.match(before.advice, engine.advice);
      await lab.click("Train");
      const { losses } = await lab.until((s) => s.step >= 20 && s.scores.length > 0, "it trains");
      // Means over five steps: from batch to batch the loss varies by a fifth.
      assert.ok(mean(losses.slice(15, 20)) < mean(losses.slice(0, 5)), `the loss falls: ${losses}`);
      await lab.picture(`${engine.name}-1`);
      await lab.click("Next");
      await lab.until((s) => s.place.story === 2, "the next page is shown");
      await lab.click("Deutsch");
      await lab.click("Weiter");
      await lab.until((s) => s.place.story === 3, "the page after it is shown, in German");
      await new Promise((resolve) => setTimeout(resolve, 1000));
      await lab.picture(`${engine.name}-3`);
      assert.deepEqual(await complaints(lab), []);
    });

    test("obeys keys, and a screen reader's clicks", async () => {
      const { lab } = await opened(`explore=1&lang=en&${SMALL}`);
      await lab.page.focus("#canvas");
      await lab.page.keyboard.press(" ");
      await lab.until((s) => s.playing, "the space bar plays");
      await lab.page.keyboard.press("Tab");
      await lab.page.waitForFunction(() => /Pause/.test(document.getElementById("spoken").textContent), { timeout: 20_000 });
      await lab.page.waitForSelector('#accessible [aria-label="Pause"]');
      await lab.page.evaluate(() => document.querySelector('#accessible [aria-label="Pause"]').click());
      await lab.until((s) => !s.playing, "the mirrored button pauses");
      await lab.picture(`${engine.name}-laboratory`);
      assert.deepEqual(await complaints(lab), []);
    });
  });
}
