// Every experiment of the course, or those that are named, in Chromium without a GPU: how long it takes, and whether it ends as its
// text says:
//   node experiments.mjs [NAME ...]

import { readFile } from "node:fs/promises";
import { open, serve, start } from "./browser.mjs";

const texts = await readFile(new URL("../../web/data/texts.tsv", import.meta.url), "utf8");
const rows = texts.split("\n").map((line) => line.split("\t"));
// The first answer of each, which is as good as another.
const answers = new Map(rows.flatMap(([key, english]) => (/^experiment\.(.+)\.1$/.test(key) ? [[key.split(".")[1], english]] : [])));
const names = process.argv.length > 2 ? process.argv.slice(2) : [...answers.keys()];

const server = await serve();
const chromium = await start({ webgpu: false });
let wrong = 0;
for (const name of names) {
  const lab = await open(chromium.browser, server.address, `story=8&device=cpu&lang=en&experiment=${name}`);
  await lab.until((s) => s.device && s.outcome, "it asks");
  const selector = `#accessible [aria-label="${answers.get(name)}"]`;
  await lab.page.waitForSelector(selector, { timeout: 60_000 });
  const begun = Date.now();
  await lab.page.evaluate((selector) => document.querySelector(selector).click(), selector);
  const { outcome, runs } = await lab.until((s) => typeof s.outcome?.answer === "number", "it is judged", 900_000);
  const seconds = ((Date.now() - begun) / 1000).toFixed(0);
  const agrees = outcome.answer === outcome.expected;
  if (!agrees) wrong++;
  const steps = runs.map((run) => run.losses.length).join(" and ");
  console.log(`${name}: ${seconds} s, ${steps} steps, ${agrees ? "as its text says" : `answer ${outcome.answer + 1} instead of ${outcome.expected + 1}`}`);
  await lab.page.close();
}
await chromium.close();
server.close();
process.exitCode = wrong ? 1 : 0;
