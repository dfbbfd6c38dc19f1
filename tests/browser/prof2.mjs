import { open, serve, start } from "./browser.mjs";
const server = await serve();
const c = await start();
try {
const patch = () => {
  const names = new WeakMap(), pnames = new WeakMap();
  const csm = GPUDevice.prototype.createShaderModule;
  GPUDevice.prototype.createShaderModule = function (d) { const m = csm.call(this, d); names.set(m, (d.code.match(/^\/\/ (.*)$/m)?.[1] ?? d.code.slice(0, 60)).slice(0, 60)); return m; };
  const ccp = GPUDevice.prototype.createComputePipeline;
  GPUDevice.prototype.createComputePipeline = function (d) { const p = ccp.call(this, d); pnames.set(p, names.get(d.compute.module)); self.dev = this; return p; };
  self.log = [];
  self.active = false;
  const bcp = GPUCommandEncoder.prototype.beginComputePass;
  GPUCommandEncoder.prototype.beginComputePass = function (d) {
    if (!self.active) return bcp.call(this, d);
    const enc = this; let pipe, groups = {};
    return { setPipeline(p) { pipe = p; }, setBindGroup(i, g, ...r) { groups[i] = [g, r]; }, dispatchWorkgroups(x, y, z) {
        const i = self.log.length; self.log.push([pnames.get(pipe) ?? "?", x, y, z]);
        const pass = bcp.call(enc, { timestampWrites: { querySet: self.qs, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 } });
        pass.setPipeline(pipe); for (const [k, [g, r]] of Object.entries(groups)) pass.setBindGroup(Number(k), g, ...r); pass.dispatchWorkgroups(x, y, z); pass.end(); },
      end() {}, pushDebugGroup() {}, popDebugGroup() {}, insertDebugMarker() {} };
  };
};
c.browser.on("targetcreated", async (t) => { const p = await t.page().catch(() => null); p?.on("workercreated", (w) => w.evaluate(patch)); });
const lab = await open(c.browser, server.address, process.argv[2] ?? "device=gpu&batch=32&projector=64&encoder_width=8&hide=course,controls,matrix,learned,views,data");
await lab.until((s) => s.device, "open");
const [worker] = lab.page.workers();
const step = async (n) => { await lab.page.evaluate(() => window.lab.command("step")); return lab.until((s) => s.step >= n, "step " + n); };
await step(1); await step(2);
await worker.evaluate(() => { self.qs = self.dev.createQuerySet({ type: "timestamp", count: 2000 }); self.log = []; self.active = true; });
const s = await step(3);
const out = await worker.evaluate(async () => {
  self.active = false;
  const n = self.log.length, d = self.dev;
  const b = d.createBuffer({ size: 16 * n, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC }), r = d.createBuffer({ size: 16 * n, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const e = d.createCommandEncoder(); e.resolveQuerySet(self.qs, 0, 2 * n, b, 0); e.copyBufferToBuffer(b, 0, r, 0, 16 * n); d.queue.submit([e.finish()]);
  await r.mapAsync(GPUMapMode.READ); const t = new BigUint64Array(r.getMappedRange());
  return self.log.map((l, i) => [...l, Number(t[2 * i + 1] - t[2 * i]) / 1e6]);
});
const by = new Map();
for (const [n, x, y, z, ms] of out) { const k = by.get(n) ?? { n: 0, ms: 0, g: 0 }; k.n++; k.ms += ms; k.g += x * y * z; by.set(n, k); }
console.log("step", s.step_ms.at(-1), "dispatches", out.length, "sum", out.reduce((a, o) => a + o[4], 0));
for (const [n, k] of [...by].sort((a, b) => b[1].ms - a[1].ms)) console.log(k.ms.toFixed(1).padStart(8), String(k.n).padStart(4), String(k.g).padStart(7), n);
out.sort((a, b) => b[4] - a[4]); for (const o of out.slice(0, 14)) console.log(o.join(" "));
} catch (e) { console.log(e) } finally { await c.close(); server.close(); }
