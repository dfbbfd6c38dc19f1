// How long each kernel of a training step takes in the browser, by the GPU's own clock:
//   node kernels.mjs ["device=gpu&batch=32&projector=64&encoder_width=8&grow=false"]
// Every dispatch gets its own pass with timestamps, so the sum is longer than a step without measurement. The
// dispatches include one evaluation of the shown pictures, as for every single step.

import { open, serve, start } from "./browser.mjs";

const fragment = process.argv[2] ?? "device=gpu&batch=32&projector=64&encoder_width=8&grow=false";

/** Runs in the worker before it opens its device; names each kernel by the first comment line of its source. */
function watch() {
  const titles = new WeakMap();
  const { createShaderModule, createComputePipeline } = GPUDevice.prototype;
  GPUDevice.prototype.createShaderModule = function (descriptor) {
    const module = createShaderModule.call(this, descriptor);
    titles.set(module, (descriptor.code.match(/^\/\/ (.*)$/m)?.[1] ?? "burn's own").slice(0, 60));
    return module;
  };
  GPUDevice.prototype.createComputePipeline = function (descriptor) {
    const pipeline = createComputePipeline.call(this, descriptor);
    titles.set(pipeline, titles.get(descriptor.compute.module));
    self.device = this;
    return pipeline;
  };
  const { beginComputePass } = GPUCommandEncoder.prototype;
  GPUCommandEncoder.prototype.beginComputePass = function (descriptor) {
    if (!self.queries) return beginComputePass.call(this, descriptor);
    const encoder = this;
    const groups = new Map();
    let pipeline;
    return {
      setPipeline: (given) => (pipeline = given),
      setBindGroup: (index, ...group) => groups.set(index, group),
      dispatchWorkgroups(...size) {
        const index = self.dispatches.length;
        self.dispatches.push({ title: titles.get(pipeline) ?? "unknown", workgroups: size.reduce((x, y) => x * y, 1) });
        const timestampWrites = { querySet: self.queries, beginningOfPassWriteIndex: 2 * index, endOfPassWriteIndex: 2 * index + 1 };
        const pass = beginComputePass.call(encoder, { timestampWrites });
        pass.setPipeline(pipeline);
        for (const [index, group] of groups) pass.setBindGroup(index, ...group);
        pass.dispatchWorkgroups(...size);
        pass.end();
      },
      end() {},
    };
  };
}

const server = await serve();
const chromium = await start();
try {
  chromium.browser.on("targetcreated", async (target) => {
    const page = await target.page().catch(() => null);
    page?.on("workercreated", (worker) => worker.evaluate(watch));
  });
  const lab = await open(chromium.browser, server.address, fragment);
  await lab.until((status) => status.device, "a device is open");
  const step = async (number) => {
    await lab.page.evaluate(() => window.lab.command("step"));
    return lab.until((status) => status.step >= number, `step ${number} is done`);
  };
  await step(1);
  await step(2);
  const [worker] = lab.page.workers();
  await worker.evaluate(() => {
    const MOST_DISPATCHES = 2000;
    self.dispatches = [];
    self.queries = self.device.createQuerySet({ type: "timestamp", count: 2 * MOST_DISPATCHES });
  });
  const status = await step(3);
  const dispatches = await worker.evaluate(async () => {
    const count = 2 * self.dispatches.length;
    const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    const resolved = self.device.createBuffer({ size: 8 * count, usage: QUERY_RESOLVE | COPY_SRC });
    const read = self.device.createBuffer({ size: 8 * count, usage: MAP_READ | COPY_DST });
    const encoder = self.device.createCommandEncoder();
    encoder.resolveQuerySet(self.queries, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, read, 0, 8 * count);
    self.device.queue.submit([encoder.finish()]);
    await read.mapAsync(GPUMapMode.READ);
    const times = new BigUint64Array(read.getMappedRange());
    return self.dispatches.map((dispatch, i) => ({ ...dispatch, ms: Number(times[2 * i + 1] - times[2 * i]) / 1e6 }));
  });
  const kernels = new Map();
  for (const { title, workgroups, ms } of dispatches) {
    const kernel = kernels.get(title) ?? { times: 0, workgroups: 0, ms: 0 };
    kernels.set(title, { times: kernel.times + 1, workgroups: kernel.workgroups + workgroups, ms: kernel.ms + ms });
  }
  console.log(`${status.device}: a step of ${status.step_ms.at(-1).toFixed(0)} ms, ${dispatches.length} dispatches`);
  console.log("      ms  times  workgroups");
  for (const [title, { times, workgroups, ms }] of [...kernels].sort(([, a], [, b]) => b.ms - a.ms)) {
    console.log(`${ms.toFixed(1).padStart(8)} ${String(times).padStart(6)} ${String(workgroups).padStart(11)}  ${title}`);
  }
} finally {
  await chromium.close();
  server.close();
}
