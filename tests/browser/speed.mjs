// How fast the lab's page is, in Chromium:
//   node speed.mjs ["device=cpu"]
// First, with files compressed by gzip, over lines like those of Chromium's presets for phones, which page and worker share: when
// something is seen, when the page can be used, and when its trainer is open. Then, while it trains: the panel's own time for a frame, the time between two frames as the
// browser shows them, and the time from a click to a page that shows its result.

import { open, serve, start } from "./browser.mjs";

const fragment = process.argv[2] ?? "device=cpu";
const quantile = (numbers, q) => [...numbers].sort((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(q * numbers.length))];
const spread = (numbers) =>
  `median ${quantile(numbers, 0.5).toFixed(0)} ms, 95th percentile ${quantile(numbers, 0.95).toFixed(0)} ms, at most ${Math.max(...numbers).toFixed(0)} ms (${numbers.length})`;

// Bytes a second and milliseconds of Chromium's presets (what it gets of 9 and 1.6 Mbit/s).
const LINES = { "Fast 4G": { bytes: 1.0125e6, delay: 165 }, "Slow 4G": { bytes: 1.8e5, delay: 562 } };
for (const [name, line] of Object.entries(LINES)) {
  const server = await serve({ compressed: true, line });
  const chromium = await start({ webgpu: /gpu/.test(fragment) });
  const page = await chromium.browser.newPage();
  const begun = Date.now();
  // Not awaited: it would wait for all files.
  page.goto(`${server.address}#${fragment}`).catch(() => {});
  const seconds = () => ((Date.now() - begun) / 1000).toFixed(1);
  await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0, { timeout: 600_000 });
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
  await page.waitForFunction(() => window.lab, { timeout: 600_000 });
  const usable = seconds();
  await page.waitForFunction(() => JSON.parse(window.lab.status()).device, { timeout: 600_000 });
  console.log(`${name}: first paint after ${(paint / 1000).toFixed(1)} s, the page is there after ${usable} s, its trainer after ${seconds()} s`);
  await chromium.close();
  server.close();
}

const server = await serve();
const chromium = await start({ webgpu: /gpu/.test(fragment) });
const lab = await open(chromium.browser, server.address, fragment);
await lab.until((s) => s.device, "a device is open");
await lab.page.evaluate(() => window.lab.command("play"));
await lab.until((s) => s.step >= 20, "it trains");
for (const place of ["story=1", "story=4", "explore=1"]) {
  await lab.page.evaluate((place) => window.lab.command(`show ${place}`), place);
  await new Promise((resolve) => setTimeout(resolve, 2000));
  const shown = await lab.page.evaluate(
    () =>
      new Promise((resolve) => {
        const times = [];
        let last;
        const frame = (now) => {
          if (last) times.push(now - last);
          last = now;
          if (times.length < 100) requestAnimationFrame(frame);
          else resolve(times);
        };
        requestAnimationFrame(frame);
      }),
  );
  const { frames_ms, step_ms } = await lab.status();
  console.log(`${place}: the panel's frames: ${spread(frames_ms.slice(-100))}`);
  console.log(`${place}: from one frame to the next: ${spread(shown)}; a step: ${spread(step_ms.slice(-50))}`);
}
// Clicks: from the event to the first frame after the panel has changed.
const answers = [];
await lab.page.evaluate(() => window.lab.command("show story=1"));
await new Promise((resolve) => setTimeout(resolve, 1000));
for (let click = 0; click < 60; click++) {
  const name = click % 2 ? "Back" : "Next";
  const { x, y, width, height } = await lab.place(name);
  const before = JSON.stringify((await lab.status()).place);
  // The page listens before the click is sent: an event may overtake a script.
  await lab.page.evaluate((before) => {
    window.answered = new Promise((resolve) => {
      let clicked;
      addEventListener("pointerdown", () => (clicked = performance.now()), { capture: true, once: true });
      const frame = () => {
        const changed = clicked && JSON.stringify(JSON.parse(window.lab.status()).place) !== before;
        // The frame that is drawn with the change is shown before the next one begins.
        if (changed) requestAnimationFrame(() => resolve(performance.now() - clicked));
        else requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    });
  }, before);
  await lab.page.mouse.click(x + width / 2, y + height / 2);
  answers.push(await lab.page.evaluate(() => window.answered));
}
console.log(`from a click to what it shows: ${spread(answers)}`);
await chromium.close();
server.close();
