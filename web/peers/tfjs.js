import * as tf from "@tensorflow/tfjs-core";
// The core alone has no gradients; the whole @tensorflow/tfjs has them, but is
// more than twice as large.
import "@tensorflow/tfjs-core/dist/register_all_gradients";
import "@tensorflow/tfjs-backend-webgpu";
import * as model from "./model.js";

function inverseDeviation(variance) {
  return tf.rsqrt(tf.add(variance, model.epsilon));
}

// Both views form one batch, but each view is normalized by its own statistics.
// A hand-written gradient was no faster than tf.moments, and two passes are slower.
function batchNorm(parameters, name, x) {
  const grouped = tf.reshape(x, [2, -1, x.shape.at(-1)]);
  const { mean, variance } = tf.moments(grouped, 1, true);
  const factor = tf.mul(parameters[`${name}.scale`], inverseDeviation(variance));
  return tf.reshape(tf.add(tf.mul(tf.sub(grouped, mean), factor), parameters[`${name}.shift`]), x.shape);
}

// The padding is a number: "same" would pad on one side only with a stride of 2.
function convolution(parameters, name, x, stride) {
  const kernel = parameters[name];
  return batchNorm(parameters, name, tf.conv2d(x, kernel, stride, kernel.shape[0] === 3 ? 1 : 0));
}

function block(parameters, name, x, shape) {
  const shortcut = model.changesShape(shape) ? convolution(parameters, `${name}.shortcut`, x, shape.stride) : x;
  const first = tf.relu(convolution(parameters, `${name}.first`, x, shape.stride));
  return tf.relu(tf.add(convolution(parameters, `${name}.second`, first, 1), shortcut));
}

function embed(parameters, views) {
  let x = tf.relu(convolution(parameters, "stem", views, 2));
  model.blocks.forEach((shape, index) => (x = block(parameters, `block${index}`, x, shape)));
  x = tf.reshape(x, [-1, model.features]);
  x = tf.relu(batchNorm(parameters, "linear0", tf.matMul(x, parameters.linear0)));
  x = tf.relu(batchNorm(parameters, "linear1", tf.matMul(x, parameters.linear1)));
  return tf.matMul(x, parameters.linear2);
}

function barlowTwins(parameters, views) {
  const embeddings = tf.reshape(embed(parameters, views), [2, model.batch, model.embedding]);
  const { mean, variance } = tf.moments(embeddings, 1, true);
  const [first, second] = tf.unstack(tf.mul(tf.sub(embeddings, mean), inverseDeviation(variance)));
  const correlation = tf.div(tf.matMul(first, second, true), model.batch);
  return tf.sum(tf.mul(tf.square(tf.sub(correlation, identity)), weight));
}

await tf.setBackend("webgpu");

const identity = tf.eye(model.embedding);
const weight = tf.tidy(() => tf.add(tf.mul(identity, 1 - model.offDiagonalWeight), model.offDiagonalWeight));

const channelsLast = [0, 2, 3, 1];
const kernelOrder = [2, 3, 1, 0];
const transposed = (values, shape, order) => tf.tidy(() => tf.transpose(tf.tensor(values, shape), order));

// Converts weights from channels first to channels last: linear0's rows follow the order of the flattened feature map.
function layOut(name, { shape, values }) {
  if (shape.length === 4) return transposed(values, shape, kernelOrder);
  if (name !== "linear0") return tf.tensor(values, shape);
  const { lastSide, features, embedding } = model;
  const rows = [features / lastSide ** 2, lastSide, lastSide, embedding];
  return tf.tidy(() => tf.reshape(transposed(values, rows, [1, 2, 0, 3]), shape));
}

const parameters = {};
for (const [name, parameter] of Object.entries(model.parameters())) {
  parameters[name] = tf.variable(layOut(name, parameter), true, name);
}
const { shape, values } = model.views();
const views = transposed(values, shape, channelsLast);

const { learningRate, beta1, beta2, epsilon } = model.adam;
const optimizer = tf.train.adam(learningRate, beta1, beta2, epsilon);

window.step = async () => {
  // minimize() tidies up after itself, except for the loss it returns.
  const loss = optimizer.minimize(() => barlowTwins(parameters, views), true);
  const [value] = await loss.data();
  loss.dispose();
  return value;
};
