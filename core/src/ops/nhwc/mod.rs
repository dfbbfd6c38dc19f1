//! The operations of a training step on tensors whose channels are neighbours in memory (NHWC).
//!
//! A convolution's epilogue sums for the batch normalization after it, and the next convolution normalizes as it reads, so
//! that normalized outputs are stored only where a residual block ends. (Where threads are simulated, convolutions leave both to
//! separate passes, and the normalized input is freed after the product.) [`crate::model`] arranges the operations for any device
//! that computes [`Operations`]: [`gpu`] launches WGSL kernels, [`cpu`] has vector instructions.

pub mod cpu;
pub mod gpu;
pub mod pieces;
mod shape;

use burn::tensor::Tensor;

use crate::ops::measure::Call;
use pieces::TileSums;
pub use shape::{Convolution, Extent, Storage};

/// What is done with an input's gradient before it is stored.
pub struct Epilogue<'a, D: Operations> {
    /// Adds to what this tensor holds, instead of writing a new one.
    pub accumulate: Option<&'a D::Images>,
    /// Adds this gradient.
    pub residual: Option<&'a D::Images>,
    /// Multiplies by the slope of a ReLU, and sums for the gradient of the normalization before it.
    pub activation: Option<Activation<'a, D>>,
}

impl<D: Operations> Clone for Epilogue<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Operations> Copy for Epilogue<'_, D> {}

impl<D: Operations> Default for Epilogue<'_, D> {
    fn default() -> Self {
        Self {
            accumulate: None,
            residual: None,
            activation: None,
        }
    }
}

/// A ReLU after a batch normalization.
pub struct Activation<'a, D: Operations> {
    /// The input of the normalization.
    pub input: &'a D::Images,
    /// The normalization.
    pub normalization: &'a D::Normalization,
    /// The output of the ReLU, where it is stored. If it is not, the ReLU directly follows the normalization.
    pub output: Option<&'a D::Images>,
}

impl<D: Operations> Clone for Activation<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Operations> Copy for Activation<'_, D> {}

/// The parameters and statistics of a batch normalization, `[channels]` each.
pub struct Running<'a, D: Operations> {
    /// The scale.
    pub gamma: &'a D::Buffer,
    /// The shift.
    pub beta: &'a D::Buffer,
    /// The running mean.
    pub mean: &'a D::Buffer,
    /// The running variance.
    pub variance: &'a D::Buffer,
    /// Added to the variance.
    pub epsilon: f64,
    /// The weight of a view's statistics in the new running ones.
    pub momentum: f64,
}

impl<D: Operations> Clone for Running<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Operations> Copy for Running<'_, D> {}

/// A device that computes the operations. Batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167) has the formulas of
/// [`crate::ops::batch_norm_train`], in the parts that products leave to it.
pub trait Operations: Clone {
    /// A batch of images.
    type Images: Clone;
    /// The values of a parameter or of a statistic, in 32 bits.
    type Buffer;
    /// A convolution's weight, as its products read it.
    type Weight;
    /// What batch normalization computes from a batch: a scale and a shift for each channel of each view, and what its gradient
    /// needs.
    type Normalization: Clone;
    /// Sums over the values of a channel: for a normalization, or for its gradient.
    type Sums;
    /// The coefficients of a normalization's gradient.
    type Coefficients;
    /// The largest values of windows, and their places.
    type Pooled;
    /// Where a parameter's gradient is written.
    type Gradient;

    /// The width of activations.
    fn storage(&self) -> Storage;

    /// The shape of images.
    fn extent(images: &Self::Images) -> Extent;

    /// Bytes of images in memory.
    fn bytes(images: &Self::Images) -> usize;

    /// Bytes of sums in memory.
    fn sums_bytes(sums: &Self::Sums) -> usize;

    /// Sums over the rows of images of this shape, for each view, on the host. It waits for the device.
    fn host_sums(&self, sums: &Self::Sums, extent: &Extent, views: usize) -> Vec<TileSums>;

    /// Sums from the host, of one tile for each view.
    fn sums_from_host(&self, views: &[TileSums]) -> Self::Sums;

    /// The images of what was pooled.
    fn pooled_images(pooled: &Self::Pooled) -> &Self::Images;

    /// Runs an operation, and measures it while a recorder is active.
    fn measured<R>(&self, call: impl FnOnce() -> Call, run: impl Fn() -> R) -> R;

    /// Images from the values of a tensor `[n, c, h, w]` in row-major order.
    fn channels_last(&self, planes: Tensor<1>, shape: [usize; 4]) -> Self::Images;

    /// The vectors of a tensor `[n, channels]` as images of one pixel, in 32 bits.
    fn images_of(&self, vectors: Tensor<2>) -> Self::Images;

    /// Images of one pixel, which are stored in 32 bits, as a tensor `[n, channels]` on the device of `like`.
    fn vectors(&self, images: &Self::Images, like: &Tensor<1>) -> Tensor<2>;

    /// The buffer of a tensor on this device.
    fn buffer(&self, values: Tensor<1>) -> Self::Buffer;

    /// A buffer as a tensor on the device of `like`, which is not tracked by autodiff.
    fn tensor<const N: usize>(
        &self,
        buffer: Self::Buffer,
        shape: [usize; N],
        like: &Tensor<1>,
    ) -> Tensor<N>;

    /// Where the gradients of parameters with so many values are written.
    fn gradients(&self, counts: &[usize]) -> Vec<Self::Gradient>;

    /// Adds another gradient of as many values to a gradient.
    fn add_gradient(&self, to: &Self::Gradient, other: Self::Gradient);

    /// A gradient that was written.
    fn written(&self, gradient: Self::Gradient) -> Self::Buffer;

    /// Packs the weight `[out_channels, channels, kernel, kernel]`.
    fn pack_weight(&self, weight: Self::Buffer, convolution: &Convolution) -> Self::Weight;

    /// The output of a convolution, of `storage`, and with `statistics` the sums for the batch normalization that follows. With
    /// a normalization, the input is first normalized and passed through a ReLU. `views` views have separate sums.
    fn convolve(
        &self,
        convolution: &Convolution,
        input: (&Self::Images, Option<&Self::Normalization>),
        weight: &Self::Weight,
        views: usize,
        statistics: bool,
        storage: Storage,
    ) -> (Self::Images, Option<Self::Sums>);

    /// The gradient with respect to a convolution's input, of `storage`, given the one with respect to its output. With an
    /// activation in the epilogue, also the sums for the gradient of its normalization.
    fn convolve_input_gradient(
        &self,
        convolution: &Convolution,
        gradient: &Self::Images,
        weight: &Self::Weight,
        epilogue: Epilogue<'_, Self>,
        storage: Storage,
    ) -> (Self::Images, Option<Self::Sums>);

    /// Writes the gradient with respect to a convolution's weight, `[out_channels, channels, kernel, kernel]`, into
    /// `grad_weight`, given the one with respect to its output.
    fn convolve_weight_gradient(
        &self,
        convolution: &Convolution,
        input: (&Self::Images, Option<&Self::Normalization>),
        gradient: &Self::Images,
        grad_weight: &Self::Gradient,
    );

    /// The normalization of a product of shape `extent` by its own statistics, and the new running mean and variance.
    fn normalize(
        &self,
        extent: &Extent,
        views: usize,
        sums: &Self::Sums,
        running: Running<'_, Self>,
    ) -> (Self::Normalization, [Self::Buffer; 2]);

    /// The normalization by running statistics, as at inference.
    fn normalize_frozen(&self, extent: &Extent, running: Running<'_, Self>) -> Self::Normalization;

    /// `relu(scale x + shift + shortcut)`, where the shortcut may be normalized too.
    fn apply(
        &self,
        normalized: (&Self::Images, &Self::Normalization),
        shortcut: Option<(&Self::Images, Option<&Self::Normalization>)>,
    ) -> Self::Images;

    /// The sums for the gradient of a normalization, given the gradient with respect to its output.
    fn norm_gradient_sums(
        &self,
        normalized: (&Self::Images, &Self::Normalization),
        gradient: &Self::Images,
    ) -> Self::Sums;

    /// Passes the gradient with respect to the output of a ReLU through it, in place, and returns the sums for the gradient of the
    /// normalization before it: what an epilogue does, where the ReLU's input was not known yet.
    fn activation_gradient(
        &self,
        activation: Activation<'_, Self>,
        gradient: &Self::Images,
    ) -> Self::Sums;

    /// Writes the gradients with respect to gamma and beta of a normalization of shape `extent`, and returns the coefficients
    /// for [`Self::norm_gradient`].
    fn norm_gradient_finish(
        &self,
        extent: &Extent,
        normalization: &Self::Normalization,
        sums: &Self::Sums,
        gamma_and_beta: [&Self::Gradient; 2],
    ) -> Self::Coefficients;

    /// The gradient with respect to the input of a normalization, given the one with respect to its output, which it
    /// overwrites if `in_place` is set.
    fn norm_gradient(
        &self,
        normalized: (&Self::Images, &Self::Normalization),
        gradient: &Self::Images,
        coefficients: &Self::Coefficients,
        in_place: bool,
    ) -> Self::Images;

    /// The largest value of `relu(scale x + shift)` in 3x3 windows with stride 2 and padding 1.
    fn max_pool(&self, normalized: (&Self::Images, &Self::Normalization)) -> Self::Pooled;

    /// The gradient with respect to the input of the ReLU before a max pooling, given the one with respect to its output.
    fn max_pool_gradient(&self, pooled: &Self::Pooled, gradient: &Self::Images) -> Self::Images;

    /// The features of images, `[n, channels * cells * cells]` in 32 bits: means over the cells of a grid.
    fn mean_pool(&self, x: &Self::Images, cells: usize) -> Self::Images;

    /// The gradient with respect to the input of the ReLU before a mean pooling, given the ReLU's output and the gradient with
    /// respect to the features, in 32 bits.
    fn mean_pool_gradient(
        &self,
        output: &Self::Images,
        gradient: &Self::Images,
        cells: usize,
    ) -> Self::Images;
}

#[cfg(test)]
mod tests;
