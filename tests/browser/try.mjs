import { open, serve, start } from "./browser.mjs";
const server = await serve();
const c = await start({webgpu: process.argv[3] !== "no"});
try {
const t0 = Date.now();
const lab = await open(c.browser, server.address, process.argv[2] ?? "");
console.log("lab after", Date.now() - t0);
lab.page.on("console", (m) => console.log("console:", m.text().slice(0,600)));
let s = await lab.until((s) => s.device, "open"); console.log("open after", Date.now() - t0, s.device, s.untrained, s.pixels, s.messages);
await lab.page.evaluate(() => window.lab.command("play"));
s = await lab.until((s) => s.step >= 1, "first"); console.log("first step after", Date.now() - t0);
await new Promise(r => setTimeout(r, Number(process.argv[4] ?? 15000)));
s = await lab.status(); 
const f = (a) => a.map((x) => Number(x.toPrecision(3))).join(" ");
console.log("ms", f(s.step_ms.slice(0, 60))); console.log("loss", f(s.losses.slice(0,80))); console.log("diag", f(s.diagonals.slice(0,80))); console.log("scores", JSON.stringify(s.scores), s.step, s.matrices, s.messages, lab.complaints, s.frame_ms);
await lab.picture("try1");
} catch (e) { console.log(e) } finally { await c.close(); server.close(); }
