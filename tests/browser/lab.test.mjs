// Tests of the lab in a real Chromium through a visitor's actions: clicks, keys, links and dropped files.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { readFile } from "node:fs/promises";
import { PNG } from "pngjs";
import { open, serve, start } from "./browser.mjs";

// Small enough for software WebGPU on two cores, large enough to learn something in a minute.
const SMALL = "batch=32&projector=32&encoder_width=4&warmup=0&epochs=400&grow=false";

const mean = (numbers) => numbers.reduce((sum, x) => sum + x, 0) / numbers.length;

/** A PNG file: a picture of one color with a square of the inverse color. */
function png(red, green, blue, corner) {
  const picture = new PNG({ width: 40, height: 40 });
  for (let y = 0; y < 40; y++)
    for (let x = 0; x < 40; x++) {
      const inside = x >= corner && x < corner + 14 && y >= corner && y < corner + 14;
      picture.data.set(inside ? [255 - red, 255 - green, 255 - blue, 255] : [red, green, blue, 255], 4 * (40 * y + x));
    }
  return PNG.sync.write(picture);
}

let server;
before(async () => (server = await serve()));
after(() => server.close());

describe("with WebGPU", () => {
  let chromium;
  before(async () => (chromium = await start()));
  after(() => chromium.close());
  const lab = (fragment, size) => open(chromium.browser, server.address, fragment, size);

  test("a click trains, and the matrix becomes more like the identity", async () => {
    const page = await lab(`device=gpu&${SMALL}`);
    const opened = await page.until((s) => s.device, "a device is open");
    assert.match(opened.device, /WebGPU/);
    assert.equal(opened.step, 0);
    await page.picture("1440x900-before");
    await page.click("Play");
    const status = await page.until((s) => s.step >= 45 && s.scores.length > 2, "45 steps are done", 600_000);
    await page.click("Pause");
    const { losses, diagonals } = status;
    assert.ok(mean(losses.slice(25, 45)) < 0.7 * mean(losses.slice(0, 5)), `the loss falls: ${losses}`);
    assert.ok(mean(diagonals.slice(25, 45)) > mean(diagonals.slice(0, 5)) + 0.1, `the diagonal rises: ${diagonals}`);
    // What is learned in so few steps is little; the experiment `usual`, which CI runs on the CPU, asserts what a minute brings.
    assert.ok(status.scores.every(([, score]) => score >= 0 && score <= 1), `scores are fractions: ${status.scores}`);
    assert.ok(status.matrices > 3, "matrices arrive");
    // The step in progress is done, and what it learned is saved.
    const stopped = await page.until((s) => !s.playing && s.kept === s.step, "it is paused");
    await page.picture("1440x900");
    for (const [width, height] of [[1024, 768], [390, 844]]) {
      await page.page.setViewport({ width, height });
      await new Promise((resolve) => setTimeout(resolve, 1500));
      await page.picture(`${width}x${height}`);
    }
    await page.page.setViewport({ width: 1440, height: 900 });
    await page.click("One step");
    await page.until((s) => s.step === stopped.step + 1, "one more step is done");
    const words = (await page.words()).join(" | ");
    assert.match(words, /Cross-correlation matrix at step \d+, 32 by 32: mean diagonal/);
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("the GPU and the CPU compute the same losses", async () => {
    const objectives = ["barlow-twins", "invariance", "redundancy", "unnormalized", "info-nce", "vicreg", "frossl"];
    const losses = { gpu: [], cpu: [] };
    for (const device of ["gpu", "cpu"]) {
      const fragment = (objective) => `device=${device}&${SMALL}&objective=${objective}&blur_on=true&gray_on=true&solarize_on=true`;
      const page = await lab(fragment("barlow-twins"));
      for (const objective of objectives) {
        // On the same page, so that the GPU's kernels are compiled only once.
        await page.page.evaluate((fragment) => (location.hash = fragment), fragment(objective));
        await page.until((s) => s.device && s.step === 0 && s.setup.objective === objective, `${objective} is open`);
        for (let step = 1; step <= 3; step++) {
          await page.page.evaluate(() => window.lab.command("step"));
          await page.until((s) => s.step === step, `step ${step} is done`);
        }
        losses[device].push(...(await page.status()).losses);
      }
      assert.deepEqual(page.complaints, []);
      await page.page.close();
    }
    assert.equal(losses.gpu.length, 3 * objectives.length);
    losses.gpu.forEach((loss, i) =>
      assert.ok(Math.abs(loss - losses.cpu[i]) < 2e-3 * Math.abs(losses.cpu[i]), JSON.stringify(losses)),
    );
  });

  test("a switch changes the views and the run at once", async () => {
    const page = await lab(`device=cpu&${SMALL}`);
    await page.until((s) => s.device, "a device is open");
    const views = async () => {
      const { x, y } = await page.place("View A of picture 1");
      return page.page.screenshot({ clip: { x, y, width: 300, height: 100 } });
    };
    const before = await views();
    await page.click("Color", "checkbox");
    await page.page.waitForFunction(() => location.hash.includes("jitter_on=false"), { timeout: 20_000 });
    const status = await page.status();
    assert.ok(!before.equals(await views()), "the views have changed");
    assert.equal(status.step, 0, "the run does not restart");
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("a link restores a state, and follows it", async () => {
    const page = await lab(`device=cpu&${SMALL}&lambda=0.5&flip_on=false&objective=invariance&lesson=3&hide=controls&b.objective=redundancy`);
    const status = await page.until((s) => s.device && s.runs.length === 2 && s.runs[1].device, "both runs are open");
    assert.equal(status.runs[0].setup.lambda, 0.5);
    assert.equal(status.runs[0].setup.objective, "invariance");
    assert.equal(status.runs[1].setup.objective, "redundancy");
    assert.equal(status.runs[1].setup.flip_on, false);
    await page.place("Next lesson");
    const words = (await page.words()).join(" | ");
    assert.match(words, /Lesson 3 of 8/);
    assert.doesNotMatch(words, /Batch/);
    await page.click("Next lesson");
    await page.page.waitForFunction(() => location.hash.includes("lesson=4"));
    await page.picture("two-runs");
    // An address typed while the page is open.
    await page.page.evaluate(() => (location.hash = "device=cpu&batch=16&projector=16&encoder_width=4"));
    await page.until((s) => s.runs.length === 1 && s.setup.batch === 16, "the new link is followed");
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("an experiment asks, trains, and tells what happened", async () => {
    const page = await lab("device=cpu&lesson=2");
    await page.until((s) => s.device, "a device is open");
    await page.click("▶ One step of an untrained network");
    await page.click("A pale mixture of red and blue, with a faint diagonal");
    const status = await page.until((s) => s.outcome?.answer !== null && s.outcome?.answer !== undefined, "it is judged");
    assert.equal(status.outcome.predicted, 1);
    assert.equal(status.outcome.answer, status.outcome.expected);
    await page.place("Your prediction was right: A pale mixture of red and blue, with a faint diagonal", null);
    assert.match(await page.page.evaluate(() => location.hash), /experiment=first-step/);
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("the story: one button trains, every step is shown, in both languages and colors", async () => {
    const page = await lab("device=cpu");
    await page.until((s) => s.device, "a device is open");
    assert.deepEqual((await page.status()).place, { story: 1 });
    await page.picture("story-1440x900-before");
    await page.click("Train");
    const before = await page.until((s) => s.step >= 30 && s.scores.length > 1, "it trains");
    // The title of each page, from the table of texts.
    const table = await readFile(new URL("../../web/data/texts.tsv", import.meta.url), "utf8");
    const lines = table.split("\n").map((line) => line.split("\t")).filter(([key]) => /^story\..*\.title$/.test(key));
    const titles = new Map(lines.map(([, en, de], index) => [index + 1, { en, de }]));
    assert.equal(titles.size, 10);
    for (const [width, height] of [[1440, 900], [1024, 768], [600, 700], [360, 740]]) {
      await page.page.setViewport({ width, height });
      for (const theme of ["light", "dark"]) {
        for (const step of [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) {
          if (theme === "dark" && step > 1 && step !== 4) continue;
          const language = step === 10 || (theme === "dark" && step === 4) ? "de" : "en";
          await page.page.evaluate((hash) => window.lab.command(`show ${hash}`), `story=${step}&device=cpu&theme=${theme}&lang=${language}`);
          await page.until((s) => s.place.story === step, `page ${step} is shown`);
          await page.page.waitForFunction(
            (title) => document.querySelector("#accessible > h2")?.textContent === title, { timeout: 20_000 }, titles.get(step)[language],
          );
          await new Promise((resolve) => setTimeout(resolve, 1200));
          await page.picture(`story-${width}x${height}-${theme}-${step}`);
        }
      }
    }
    // Turning pages has not disturbed the run: its first losses are still those of its first steps.
    const after = await page.status();
    assert.deepEqual(after.losses.slice(0, 30), before.losses.slice(0, 30));
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("an experiment of the story by the keyboard, as a screen reader hears it", async () => {
    const page = await lab("device=cpu&lang=en&story=8");
    await page.until((s) => s.device, "a device is open");
    const heard = (words) =>
      page.page.waitForFunction((words) => document.getElementById("news").textContent.includes(words), { timeout: 60_000 }, words);
    const titled = (title) =>
      page.page.waitForFunction((title) => document.querySelector("#accessible > h2").textContent === title, { timeout: 20_000 }, title);
    await page.page.focus("#canvas");
    await page.page.keyboard.press("ArrowLeft");
    await heard("The loss. The loss measures");
    await titled("The loss");
    await page.page.keyboard.press("ArrowRight");
    await heard("Ways to fail.");
    await titled("Ways to fail");
    // The question of an experiment that ends after a step.
    await page.page.evaluate(() => (location.hash = "device=cpu&lang=en&story=8&experiment=first-step"));
    await page.until((s) => s.device && s.outcome?.experiment === "first-step", "the question is asked");
    await page.page.focus("#canvas");
    const answer = "White everywhere";
    for (let tabs = 0; tabs < 30; tabs++) {
      await page.page.keyboard.press("Tab");
      await new Promise((resolve) => setTimeout(resolve, 300));
      if ((await page.page.$eval("#spoken", (spoken) => spoken.textContent)).startsWith(answer)) break;
    }
    assert.match(await page.page.$eval("#spoken", (spoken) => spoken.textContent), /^White everywhere, button/);
    await page.picture("question");
    await page.page.keyboard.press("Enter");
    const status = await page.until((s) => typeof s.outcome?.answer === "number", "it is judged");
    assert.equal(status.outcome.predicted, 2);
    await heard("It turned out differently: A pale mixture of red and blue");
    await page.picture("result");
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("a copied frame shows the story in another page, and lets the keyboard out", async () => {
    const page = await lab("device=cpu&lang=en&story=10");
    await page.until((s) => s.device, "a device is open");
    await page.click("Frame for another page (HTML)");
    const { messages } = await page.until((s) => s.messages.some((message) => message.includes("<iframe")), "a frame is copied");
    const frame = messages.find((message) => message.includes("<iframe")).replace(/^Copied: /, "");
    await page.page.close();
    const article = await chromium.browser.newPage();
    await article.setViewport({ width: 500, height: 800 });
    await article.setContent(`<button id="before">before</button>${frame}<button id="after">after</button>`);
    const element = await article.waitForSelector("iframe");
    const inside = await element.contentFrame();
    await inside.waitForFunction(() => window.lab && JSON.parse(window.lab.status()).device, { timeout: 120_000 });
    const status = await inside.evaluate(() => JSON.parse(window.lab.status()));
    assert.deepEqual(status.place, { story: 1 }, "it begins with the story");
    const box = await element.boundingBox();
    assert.ok(box.width <= 500, "it is no wider than its page");
    await article.screenshot({ path: new URL("screenshots/frame.png", import.meta.url).pathname });
    await inside.focus("#canvas");
    const focused = () => article.evaluate(() => document.activeElement.id || document.activeElement.tagName);
    await article.keyboard.press("Tab");
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal(await focused(), "IFRAME", "Tab moves within the lab");
    const isLeft = () => inside.evaluate(() => document.activeElement === document.body);
    await article.keyboard.press("Escape");
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.ok(!(await isLeft()), "the first Escape leaves the widget");
    await article.keyboard.press("Escape");
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.ok(await isLeft(), "the second one leaves the lab");
    await article.keyboard.press("Tab");
    await article.waitForFunction(() => document.activeElement.id === "after", { timeout: 20_000 });
    await article.close();
  });

  test("by touch: a tap trains, and a tap on C leads to its entry", async () => {
    const page = await lab("device=cpu&lang=en", { width: 360, height: 740, hasTouch: true, isMobile: true });
    await page.until((s) => s.device, "a device is open");
    const tap = async (name) => {
      const { x, y, width, height } = await page.place(name);
      await page.page.touchscreen.tap(x + width / 2, y + height / 2);
    };
    await tap("Train");
    await page.until((s) => s.step >= 5, "it trains");
    await tap("Pause");
    await page.until((s) => !s.playing, "it waits");
    const c = await page.page.waitForSelector('#accessible [aria-label^="Cross-correlation matrix at step"]');
    const box = await c.boundingBox();
    await page.page.touchscreen.tap(box.x + box.width / 2, box.y + box.height / 2);
    await page.until((s) => s.place.story === 4, "the entry is shown");
    await page.picture("touch-entry");
    await tap("Next");
    await page.until((s) => s.place.story === 5, "the next page is shown");
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("axe finds nothing in the story, in the laboratory, and on the page for teachers", async () => {
    const axe = await readFile(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
    const findings = async (page) => {
      await page.evaluate(axe);
      const found = await page.evaluate(async () => (await window.axe.run()).violations);
      return found.map((v) => `${v.id} (${v.impact}): ${v.nodes.map((n) => n.html.slice(0, 120)).join(" | ")}`);
    };
    for (const fragment of ["device=cpu&story=1", "device=cpu&story=4", `device=cpu&explore=1&lesson=3&${SMALL}`, "device=cpu&lang=de&theme=dark&story=8&experiment=first-step"]) {
      const page = await lab(fragment);
      await page.until((s) => s.device, "a device is open");
      await page.page.waitForSelector("#accessible > button");
      await new Promise((resolve) => setTimeout(resolve, 1000));
      assert.deepEqual(await findings(page.page), [], fragment);
      await page.page.close();
    }
    const page = await chromium.browser.newPage();
    await page.goto(new URL("teach.html", server.address).href);
    assert.deepEqual(await findings(page), []);
    // Every link of the page leads to a state that the lab understands.
    const links = await page.evaluate(() => [...document.querySelectorAll('a[href^="./#"]')].map((a) => a.hash.slice(1)));
    assert.ok(links.length >= 20);
    // Each button prints what it says, with the answers.
    await page.emulateMediaType("print");
    await page.evaluate(() => (window.print = () => {}));
    const printed = async (name) => {
      // On paper the buttons are hidden.
      await page.evaluate((name) => document.querySelector(`button[data-print="${name}"]`).click(), name);
      await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
      const shown = await page.evaluate(() => ({
        titles: [...document.querySelectorAll("h1, h2")].filter((title) => title.checkVisibility()).map((title) => title.textContent),
        answers: [...document.querySelectorAll("details[open]")].filter((answer) => answer.checkVisibility()).length,
      }));
      await page.evaluate(() => dispatchEvent(new Event("afterprint")));
      return shown;
    };
    assert.deepEqual(await printed("english-sheet"), { titles: ["Sheet for students"], answers: 0 });
    assert.deepEqual(await printed("deutsch-sheet"), { titles: ["Arbeitsblatt"], answers: 0 });
    for (const [name, own, other] of [["english", /45-minute lesson/, /stunde/], ["deutsch", /Unterrichtsstunde/, /lesson/]]) {
      const { titles, answers } = await printed(name);
      assert.ok(titles.length === 4 && own.test(titles[0]) && !titles.some((title) => other.test(title)), titles.join(" | "));
      assert.equal(answers, 6);
    }
    assert.equal(await page.evaluate(() => document.querySelectorAll("details[open]").length), 0, "they are closed again");
    await page.close();
    const opened = await lab("device=cpu");
    for (const link of new Set(links)) {
      await opened.page.evaluate((link) => (location.hash = link), link);
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
    assert.deepEqual((await opened.status()).messages, []);
    await opened.page.close();
  });

  test("a slider of the mirror sets its setting", async () => {
    const page = await lab(`device=cpu&${SMALL}`);
    await page.until((s) => s.device, "a device is open");
    await page.page.waitForSelector('#accessible input[aria-label="λ"]');
    // Nothing is drawn any more: the click itself must ask for it.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await page.page.evaluate(() => {
      const slider = document.querySelector('#accessible input[aria-label="λ"]');
      slider.value = "0.5";
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    });
    await page.page.waitForFunction(() => location.hash.includes("lambda=0.5"), { timeout: 20_000 });
    await page.page.close();
  });

  test("folded settings open for a screen reader", async () => {
    const page = await lab(`device=cpu&explore=1&lang=en&${SMALL}`);
    await page.until((s) => s.device, "a device is open");
    const header = await page.page.waitForSelector('#accessible [aria-label="More settings"][aria-expanded="false"]');
    await header.evaluate((element) => element.click());
    await page.page.waitForSelector('#accessible [aria-label="More settings"][aria-expanded="true"]');
    await page.page.waitForSelector('#accessible [aria-label^="Device"]');
    await page.page.close();
  });

  test("after the first visit it opens without a network", async () => {
    // A server of its own, which is then gone: an emulated network would be away for the page, and not for its service worker.
    const network = await serve();
    const page = await open(chromium.browser, network.address, "device=cpu");
    await page.until((s) => s.device, "a device is open");
    await page.page.evaluate(() => navigator.serviceWorker.ready);
    // Only then do its requests go through the service worker.
    await page.page.waitForFunction(() => navigator.serviceWorker.controller, { timeout: 60_000 });
    network.close();
    await page.page.reload();
    await page.page.waitForFunction(() => window.lab, { timeout: 120_000 });
    await page.until((s) => s.device, "a device is open without a network");
    await page.page.evaluate(() => (location.hash = "device=cpu&data=fashion"));
    await page.until((s) => s.device && s.setup.data === "fashion", "the clothes are there without a network");
    await page.page.goto(`${network.address}teach.html`);
    assert.match(await page.page.title(), /lesson/i);
    await page.page.close();
  });

  test("keys alone do", async () => {
    const page = await lab(`device=cpu&${SMALL}`);
    await page.until((s) => s.device, "a device is open");
    await page.page.focus("#canvas");
    await page.page.keyboard.press("Space");
    await page.until((s) => s.playing, "the space bar plays");
    await page.until((s) => s.step >= 1, "a step is done");
    await page.page.keyboard.press("Space");
    await page.until((s) => !s.playing, "the space bar pauses");
    // Tab moves to the first button, Enter presses it, and the focused widget is announced.
    await page.page.keyboard.press("Tab");
    await page.page.waitForFunction(() => /Play/.test(document.getElementById("spoken").textContent), { timeout: 20_000 });
    await page.page.keyboard.press("Enter");
    await page.until((s) => s.playing, "the first button plays");
    // A screen reader's click on an element acts on its widget.
    await page.page.waitForSelector('#accessible [aria-label="Pause"]');
    await page.page.evaluate(() => document.querySelector('#accessible [aria-label="Pause"]').click());
    await page.until((s) => !s.playing, "the mirrored button pauses");
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("dropped pictures are looked for, and learned from", async () => {
    const page = await lab(`device=cpu&${SMALL}`);
    await page.until((s) => s.device, "a device is open");
    await page.drop([{ name: "red.png", bytes: png(220, 30, 30, 5) }, { name: "notes.txt", bytes: Buffer.from("no picture") }]);
    // The files are read independently: either may finish first.
    const refused = (s) => s.messages.some((message) => /notes\.txt cannot be read/.test(message));
    await page.until((s) => s.own === 1 && refused(s), "the picture is accepted, and the other file is refused");
    await page.place("Look for red.png");
    await page.picture("dropped");
    const many = Array.from({ length: 40 }, (_, i) => ({ name: `${i}.png`, bytes: png(6 * i, 255 - 6 * i, (37 * i) % 256, i % 26) }));
    await page.drop(many);
    await page.until((s) => s.own === 41, "all pictures are accepted");
    await page.click("Your own: 41 pictures");
    await page.until((s) => s.setup.data === "own" && s.device, "the dropped pictures are the data set");
    await page.click("Play");
    const trained = await page.until((s) => s.step >= 3, "it learns from them");
    assert.equal(trained.setup.data, "own");
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("clothes are fetched when they are chosen", async () => {
    const page = await lab(`device=cpu&${SMALL}`);
    const asked = [];
    page.page.on("request", (request) => asked.push(request.url()));
    await page.until((s) => s.device, "a device is open");
    assert.ok(!asked.some((url) => /fashion/.test(url)));
    await page.click("Fashion-MNIST: 3000 pieces of clothing (1.2 MB)");
    const status = await page.until((s) => s.setup?.data === "fashion" && s.device, "the clothes are loaded");
    assert.ok(status.pixels > 0.4, "the nearest neighbors tell clothes apart");
    await page.picture("fashion");
    assert.deepEqual(page.complaints, []);
    await page.page.close();
  });

  test("two tabs train side by side, and a hidden one says what it did", async () => {
    const pages = [await lab(`device=cpu&${SMALL}`), await lab(`device=cpu&${SMALL}`)];
    for (const page of pages) {
      await page.until((s) => s.device, "a device is open");
      await page.page.evaluate(() => window.lab.command("play"));
    }
    for (const page of pages) await page.until((s) => s.step >= 5, "it trains");
    const [first] = pages;
    // Without a screen no page is ever hidden: the events of hiding are made here.
    const visibility = (hidden) =>
      first.page.evaluate((hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    const { step } = await first.status();
    await visibility(true);
    await first.until((s) => s.step >= step + 25, "it goes on while it is hidden");
    await visibility(false);
    await first.until((s) => s.messages.some((message) => /background/.test(message)), "it says so");
    for (const page of pages) {
      assert.deepEqual(page.complaints, []);
      await page.page.close();
    }
  });

  test("the page is drawn again when its drawing context is lost", async () => {
    const page = await lab(`device=cpu&story=1&${SMALL}`);
    await page.until((s) => s.device, "a device is open");
    await page.page.evaluate(() => window.lab.command("play"));
    await page.until((s) => s.step >= 2, "it trains");
    const before = await page.page.screenshot();
    await page.page.evaluate(() => document.getElementById("canvas").getContext("webgl2").getExtension("WEBGL_lose_context").loseContext());
    const { step } = await page.until((s) => s.messages.some((message) => /redrawn/.test(message)), "it says so");
    await page.until((s) => s.step > step + 2, "it goes on");
    // An empty page compresses to a few kilobytes; the first frame may take longer than three steps.
    let after = Buffer.alloc(0);
    for (let tries = 0; tries < 60 && after.length <= before.length / 2; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      after = await page.page.screenshot();
    }
    assert.ok(after.length > before.length / 2, `${after.length} bytes after, ${before.length} before`);
    await page.click("Next");
    await page.until((s) => s.place.story === 2, "its buttons are there");
    await page.page.close();
  });

  test("training goes on when the trainer is lost", async () => {
    const page = await lab(`device=cpu&${SMALL}`);
    await page.until((s) => s.device, "a device is open");
    await page.page.evaluate(() => window.lab.command("play"));
    await page.until((s) => s.step >= 2, "it trains");
    await page.page.evaluate(() => window.lab.command("pause"));
    const before = await page.until((s) => !s.playing && s.kept === s.step, "its state is saved");
    // Simulates a lost device: the worker fails, and everything in it is lost.
    const [worker] = page.page.workers();
    await worker.evaluate(() => void setTimeout(() => { throw new Error("lost for a test"); }));
    await page.until((s) => s.messages.some((message) => /was lost/.test(message)) && s.device, "another trainer has started");
    await page.page.evaluate(() => window.lab.command("play"));
    const after = await page.until((s) => s.step > before.step, "it goes on");
    assert.ok(before.scores.every(([step]) => after.scores.some(([known]) => known === step)), "the scores from before are still there");
    assert.deepEqual(after.losses.slice(0, before.step), before.losses, "the losses from before are still there");
    await page.page.close();
  });
});

test("without WebGPU it says so, and trains on the CPU", async () => {
  const chromium = await start({ webgpu: false });
  try {
    const page = await open(chromium.browser, server.address, "warmup=0&epochs=4");
    assert.equal(await page.page.evaluate(async () => (await navigator.gpu?.requestAdapter()) ?? null), null);
    const opened = await page.until((s) => s.device, "the CPU is open");
    assert.match(opened.device, /CPU/);
    assert.match(opened.advice, /To use a GPU/);
    assert.deepEqual(opened.messages, [], "and nothing is in the way");
    await page.click("Play");
    const status = await page.until((s) => s.step >= 60, "60 steps are done");
    assert.ok(mean(status.losses.slice(50, 60)) < 0.8 * mean(status.losses.slice(0, 5)), `the loss falls: ${status.losses}`);
    await page.picture("without-webgpu");
    assert.deepEqual(page.complaints, []);
  } finally {
    await chromium.close();
  }
});

test("at 200% zoom C is seen, and every button", async () => {
  // What a page of 1440 x 900 is at 200%, with 87 points for the window's own parts. The scale of an emulated page is no zoom: a canvas would be told another size.
  const chromium = await start({ webgpu: false, scaled: ["--force-device-scale-factor=2", "--window-size=720,537", "--hide-scrollbars"] });
  try {
    const page = await open(chromium.browser, server.address, "device=cpu", null);
    await page.until((s) => s.device, "a device is open");
    const [width, height, scale] = await page.page.evaluate(() => [innerWidth, innerHeight, devicePixelRatio]);
    assert.equal(scale, 2);
    assert.ok(width <= 720 && height <= 460, `${width} x ${height}`);
    await page.page.evaluate(() => window.lab.command("play"));
    await page.until((s) => s.step >= 20, "it trains");
    for (const step of [1, 4, 7, 9]) {
      await page.page.evaluate((step) => window.lab.command(`show story=${step}`), step);
      await new Promise((resolve) => setTimeout(resolve, 1200));
      await page.picture(`story-zoom-${step}`);
      const next = await page.place("Next");
      assert.ok(next.x >= 0 && next.x + next.width <= width && next.y + next.height <= height, JSON.stringify(next));
    }
    await page.page.evaluate(() => window.lab.command("show story=1"));
    const next = await page.place("Next");
    for (const name of ["Back", "Pause", "Laboratory"]) {
      const button = await page.place(name);
      assert.ok(button.x >= 0 && button.y >= 0 && button.x + button.width <= width && button.y + button.height <= height, name);
    }
    const c = await page.page.waitForSelector('#accessible [aria-label^="Cross-correlation matrix at step"]');
    const box = await c.boundingBox();
    assert.ok(box.width >= 140 && box.y >= 0 && box.y + box.height <= next.y, JSON.stringify([box, next]));
    assert.deepEqual(page.complaints, []);
  } finally {
    await chromium.close();
  }
});

test("without WebGL it says what it needs", async () => {
  const chromium = await start({ webgl: false });
  try {
    const page = await chromium.browser.newPage();
    await page.goto(server.address);
    await page.waitForFunction(() => /WebGL 2/.test(document.getElementById("progress")?.textContent ?? ""), { timeout: 60_000 });
    const words = await page.evaluate(() => document.getElementById("progress").textContent);
    assert.match(words, /The lab cannot start here.*allow hardware acceleration.*or use another browser/s);
    await page.screenshot({ path: new URL("screenshots/without-webgl.png", import.meta.url).pathname });
  } finally {
    await chromium.close();
  }
});
