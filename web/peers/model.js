// The model that every peer trains: with the same sizes, initial weights and views,
// their first losses must agree.

export const batch = 32;
export const side = 32;
export const width = 8;
export const embedding = 64;
export const offDiagonalWeight = 0.03;
export const epsilon = 1e-5;
export const adam = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

export const blocks = [
  { inputs: width, outputs: width, stride: 1 },
  { inputs: width, outputs: 2 * width, stride: 2 },
  { inputs: 2 * width, outputs: 4 * width, stride: 2 },
];
export const lastSide = 4;
export const features = lastSide * lastSide * 4 * width;

export const changesShape = ({ inputs, outputs, stride }) => inputs !== outputs || stride !== 1;

// Seeded (mulberry32 and Box-Muller), because every peer's own generator differs.
function normalSource(seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let bits = Math.imul(seed ^ (seed >>> 15), seed | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

const size = (shape) => shape.reduce((product, length) => product * length, 1);

/// Every parameter by name: { shape, values }. Convolutions are
/// [outputs, inputs, height, width], linears [inputs, outputs].
export function parameters() {
  const normal = normalSource(1);
  const all = {};
  const weight = (name, shape, inputsPerOutput) => {
    const deviation = Math.sqrt(2 / inputsPerOutput);
    all[name] = { shape, values: Float32Array.from({ length: size(shape) }, () => deviation * normal()) };
  };
  const batchNorm = (name, channels) => {
    all[`${name}.scale`] = { shape: [channels], values: new Float32Array(channels).fill(1) };
    all[`${name}.shift`] = { shape: [channels], values: new Float32Array(channels) };
  };
  const convolution = (name, inputs, outputs, kernel) => {
    weight(name, [outputs, inputs, kernel, kernel], inputs * kernel * kernel);
    batchNorm(name, outputs);
  };

  convolution("stem", 3, width, 3);
  blocks.forEach((block, index) => {
    convolution(`block${index}.first`, block.inputs, block.outputs, 3);
    convolution(`block${index}.second`, block.outputs, block.outputs, 3);
    if (changesShape(block)) convolution(`block${index}.shortcut`, block.inputs, block.outputs, 1);
  });
  weight("linear0", [features, embedding], features);
  batchNorm("linear0", embedding);
  weight("linear1", [embedding, embedding], embedding);
  batchNorm("linear1", embedding);
  weight("linear2", [embedding, embedding], embedding);
  return all;
}

/// Both views in one array [2 * batch, channel, row, column]: all first views, then
/// all second views. Each view is the picture plus its own noise.
export function views() {
  const normal = normalSource(2);
  const shape = [2 * batch, 3, side, side];
  const half = size(shape) / 2;
  const pictures = Float32Array.from({ length: half }, normal);
  const values = Float32Array.from({ length: 2 * half }, (_, index) => pictures[index % half] + 0.5 * normal());
  return { shape, values };
}
