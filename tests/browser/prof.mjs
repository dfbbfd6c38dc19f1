import { open, serve, start } from "./browser.mjs";
const server = await serve();
const c = await start();
try {
const lab = await open(c.browser, server.address, "device=gpu&batch=32&projector=64&encoder_width=8&hide=course,controls,matrix,learned,views,data");
await lab.until((s) => s.device, "open");
const [worker] = lab.page.workers();
await worker.evaluate(() => {
  self.counts = {};
  const wrap = (cls, name) => { const p = self[cls]?.prototype; const f = p?.[name]; if (!f) return; p[name] = function (...a) { self.counts[name] = (self.counts[name] ?? 0) + 1; const t = performance.now(); const r = f.apply(this, a); self.counts[name+"_ms"] = (self.counts[name+"_ms"] ?? 0) + performance.now() - t; return r; }; };
  for (const [c, ns] of Object.entries({ GPUQueue: ["submit", "writeBuffer", "onSubmittedWorkDone"], GPUComputePassEncoder: ["dispatchWorkgroups", "setPipeline", "end"], GPUDevice: ["createBindGroup", "createBuffer", "createComputePipeline", "createShaderModule", "createCommandEncoder","pushErrorScope","popErrorScope"], GPUBuffer: ["mapAsync","getMappedRange"], GPUCommandEncoder: ["copyBufferToBuffer", "beginComputePass", "clearBuffer"] })) ns.forEach((n) => wrap(c, n));
});
await lab.page.evaluate(() => window.lab.command("step"));
await lab.until((s) => s.step >= 1, "1");
for (let i = 2; i < 5; i++) {
await worker.evaluate(() => { self.counts = {}; });
const t = Date.now();
await lab.page.evaluate(() => window.lab.command("step"));
const s = await lab.until((s) => s.step >= i, "1");
console.log(i, s.step_ms.at(-1), JSON.stringify(await worker.evaluate(() => self.counts)));
}
} catch (e) { console.log(e) } finally { await c.close(); server.close(); }
