//! The reference for batch normalization, in burn's tensor operations.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::Shape;

use super::BatchNormOptions;

/// The rows of `tensor` that belong to one of `views`.
fn view_of<B: Backend>(tensor: &FloatTensor<B>, view: usize, views: usize) -> FloatTensor<B> {
    if views == 1 {
        return tensor.clone();
    }
    let shape = tensor.shape();
    let length = shape[0] / views;
    let mut ranges: Vec<_> = shape.iter().map(|extent| (0..*extent).into()).collect();
    ranges[0] = (view * length..(view + 1) * length).into();
    B::float_slice(tensor.clone(), &ranges)
}

/// The row of `[views, channels]` that belongs to a view, `[channels]`.
fn row_of<B: Backend>(table: &FloatTensor<B>, view: usize) -> FloatTensor<B> {
    let channels = table.shape()[1];
    let ranges = [(view..view + 1).into(), (0..channels).into()];
    B::float_reshape(
        B::float_slice(table.clone(), &ranges),
        Shape::from([channels]),
    )
}

fn stack<B: Backend>(rows: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    let rows = rows.into_iter().map(|row| {
        let channels = row.shape()[0];
        B::float_reshape(row, Shape::from([1, channels]))
    });
    B::float_cat(rows.collect(), 0)
}

fn joined<B: Backend>(mut views: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    match views.len() {
        1 => views.remove(0),
        _ => B::float_cat(views, 0),
    }
}

fn with_residual<B: Backend>(
    y: FloatTensor<B>,
    residual: Option<FloatTensor<B>>,
    relu: bool,
) -> FloatTensor<B> {
    let y = match residual {
        Some(residual) => B::float_add(y, residual),
        None => y,
    };
    if relu { B::relu(y) } else { y }
}

#[allow(clippy::type_complexity)]
pub fn train<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    residual: Option<FloatTensor<B>>,
    running_mean: FloatTensor<B>,
    running_variance: FloatTensor<B>,
    options: BatchNormOptions,
) -> (
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
) {
    let shape = x.shape();
    let count = (shape.num_elements() / shape[1] / options.views) as f64;
    let (mut ys, mut means, mut variances) = (Vec::new(), Vec::new(), Vec::new());
    let (mut running_mean, mut running_variance) = (running_mean, running_variance);
    for view in 0..options.views {
        let x = view_of::<B>(&x, view, options.views);
        let result = B::batch_norm_train(x, gamma.clone(), beta.clone(), options.epsilon);
        let update = |running: FloatTensor<B>, batch: FloatTensor<B>, factor: f64| {
            B::float_add(
                B::float_mul_scalar(running, (1.0 - options.momentum).into()),
                B::float_mul_scalar(batch, (options.momentum * factor).into()),
            )
        };
        // The batch is normalized with the biased variance; the running variance is unbiased, as in PyTorch.
        let unbiased = count / (count - 1.0).max(1.0);
        running_mean = update(running_mean, result.mean.clone(), 1.0);
        running_variance = update(running_variance, result.variance.clone(), unbiased);
        ys.push(result.output);
        means.push(result.mean);
        variances.push(result.variance);
    }
    (
        with_residual::<B>(joined::<B>(ys), residual, options.relu),
        stack::<B>(means),
        stack::<B>(variances),
        running_mean,
        running_variance,
    )
}

#[allow(clippy::too_many_arguments, clippy::type_complexity)]
pub fn gradient<B: Backend>(
    x: FloatTensor<B>,
    y: FloatTensor<B>,
    gamma: FloatTensor<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    gradient: FloatTensor<B>,
    options: BatchNormOptions,
) -> (
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
    FloatTensor<B>,
) {
    let gradient = if options.relu {
        B::relu_backward(y, gradient)
    } else {
        gradient
    };
    let mut grad_x = Vec::new();
    let mut grad_affine: Option<(FloatTensor<B>, FloatTensor<B>)> = None;
    for view in 0..options.views {
        let result = B::batch_norm_train_backward(
            view_of::<B>(&x, view, options.views),
            gamma.clone(),
            row_of::<B>(&mean, view),
            row_of::<B>(&variance, view),
            options.epsilon,
            view_of::<B>(&gradient, view, options.views),
        );
        grad_x.push(result.x_grad);
        grad_affine = Some(match grad_affine {
            None => (result.gamma_grad, result.beta_grad),
            Some((gamma, beta)) => (
                B::float_add(gamma, result.gamma_grad),
                B::float_add(beta, result.beta_grad),
            ),
        });
    }
    let (grad_gamma, grad_beta) = grad_affine.expect("there is at least one view");
    (joined::<B>(grad_x), grad_gamma, grad_beta, gradient)
}

#[allow(clippy::too_many_arguments)]
pub fn frozen<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    residual: Option<FloatTensor<B>>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    epsilon: f64,
    relu: bool,
) -> FloatTensor<B> {
    let std = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
    let scale = B::float_div(gamma, std);
    let shift = B::float_sub(beta, B::float_mul(mean, scale.clone()));
    let shape = x.shape();
    let across = |row: FloatTensor<B>| {
        let mut flat = vec![1; shape.num_dims()];
        flat[1] = shape[1];
        B::float_expand(B::float_reshape(row, Shape::from(flat)), shape.clone())
    };
    let y = B::float_add(B::float_mul(x, across(scale)), across(shift));
    with_residual::<B>(y, residual, relu)
}
