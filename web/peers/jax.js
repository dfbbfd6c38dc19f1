import { defaultDevice, init, jit, lax, nn, numpy as np, tree, valueAndGrad } from "@jax-js/jax";
import * as model from "./model.js";

// jax-js counts references: a function consumes its arguments, and `.ref` keeps
// one for a further use.

// Both views form one batch, but each view is normalized by its own statistics.
function normalize(x) {
  const [rows, ...rest] = x.shape;
  const grouped = x.reshape([2, rows / 2, ...rest]);
  const axes = rest.length === 1 ? [1] : [1, 3, 4];
  return nn.standardize(grouped, axes, { epsilon: model.epsilon }).reshape([rows, ...rest]);
}

function batchNorm(parameters, name, x) {
  const shape = [-1, ...Array(x.ndim - 2).fill(1)];
  return normalize(x)
    .mul(parameters[`${name}.scale`].reshape(shape))
    .add(parameters[`${name}.shift`].reshape(shape));
}

function convolution(parameters, name, x, stride) {
  const kernel = parameters[name];
  const padding = kernel.shape[2] === 3 ? [[1, 1], [1, 1]] : "VALID";
  return batchNorm(parameters, name, lax.conv(x, kernel, [stride, stride], padding));
}

function block(parameters, name, x, shape) {
  const shortcut = model.changesShape(shape) ? convolution(parameters, `${name}.shortcut`, x.ref, shape.stride) : x.ref;
  const first = nn.relu(convolution(parameters, `${name}.first`, x, shape.stride));
  return nn.relu(convolution(parameters, `${name}.second`, first, 1).add(shortcut));
}

function embed(parameters, views) {
  let x = nn.relu(convolution(parameters, "stem", views, 2));
  model.blocks.forEach((shape, index) => (x = block(parameters, `block${index}`, x, shape)));
  x = x.reshape([-1, model.features]);
  x = nn.relu(batchNorm(parameters, "linear0", np.matmul(x, parameters.linear0)));
  x = nn.relu(batchNorm(parameters, "linear1", np.matmul(x, parameters.linear1)));
  return np.matmul(x, parameters.linear2);
}

function barlowTwins(parameters, views) {
  const normalized = normalize(embed(parameters, views)).reshape([2, model.batch, model.embedding]);
  const [first, second] = [normalized.ref.slice(0), normalized.slice(1)];
  const correlation = np.matmul(np.transpose(first), second).div(model.batch);
  const identity = np.eye(model.embedding);
  const weight = identity.ref.mul(1 - model.offDiagonalWeight).add(model.offDiagonalWeight);
  return np.square(correlation.sub(identity)).mul(weight).sum();
}

// One jit around loss, gradient and optimizer takes half the time of a jit of the loss alone.
const step = jit((state, views) => {
  const { learningRate, beta1, beta2, epsilon } = model.adam;
  const [loss, gradients] = valueAndGrad(barlowTwins)(tree.ref(state.parameters), views);
  const power1 = state.power1.mul(beta1);
  const power2 = state.power2.mul(beta2);
  const next = { parameters: {}, first: {}, second: {} };
  for (const [name, gradient] of Object.entries(gradients)) {
    const first = state.first[name].mul(beta1).add(gradient.ref.mul(1 - beta1));
    const second = state.second[name].mul(beta2).add(np.square(gradient).mul(1 - beta2));
    const direction = first.ref
      .div(np.subtract(1, power1.ref))
      .div(np.sqrt(second.ref.div(np.subtract(1, power2.ref))).add(epsilon));
    next.parameters[name] = state.parameters[name].sub(direction.mul(learningRate));
    next.first[name] = first;
    next.second[name] = second;
  }
  return [{ ...next, power1, power2 }, loss];
});

await init("webgpu");
defaultDevice("webgpu");

const start = Object.entries(model.parameters());
const each = (make) => Object.fromEntries(start.map(([name, parameter]) => [name, make(parameter)]));
const array = ({ shape, values }) => np.array(values).reshape(shape);
let state = {
  parameters: each(array),
  first: each(({ shape }) => np.zeros(shape)),
  second: each(({ shape }) => np.zeros(shape)),
  power1: np.array(1),
  power2: np.array(1),
};
const views = array(model.views());

window.step = async () => {
  let loss;
  [state, loss] = step(state, views.ref);
  return loss.jsAsync();
};
