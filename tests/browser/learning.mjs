// What the lab learns in a minute, in Chromium without a GPU:
//   node learning.mjs ["grow=false" ...]
// For the usual settings and for each argument's, over three seeds: the steps done 60 seconds after training began, and how many copies are
// found then, beside raw pixels and the untrained network.

import { open, serve, start } from "./browser.mjs";

const SECONDS = 60;
const SEEDS = [0, 1, 2];

const server = await serve();
const chromium = await start({ webgpu: false });
for (const settings of ["", ...process.argv.slice(2)]) {
  for (const seed of SEEDS) {
    const lab = await open(chromium.browser, server.address, `device=cpu&seed=${seed}&${settings}`);
    await lab.until((s) => s.device, "a device is open");
    // A link with settings opens the laboratory; the story draws less.
    await lab.page.evaluate(() => window.lab.command("show story=1"));
    await lab.page.evaluate(() => window.lab.command("play"));
    await new Promise((resolve) => setTimeout(resolve, 1000 * SECONDS));
    const { step, scores, pixels, untrained } = await lab.status();
    const percent = (share) => `${(100 * share).toFixed(0)}%`;
    const course = scores.map(([at, score]) => `${at}: ${percent(score)}`).join(", ");
    console.log(`${settings || "usual"}, seed ${seed}: ${step} steps, ${percent(scores.at(-1)[1])}; raw pixels ${percent(pixels)}, untrained ${percent(untrained)} (by step ${course})`);
    await lab.page.close();
  }
}
await chromium.close();
server.close();
