//! Batch normalization on a wgpu device: three kernels each for output and gradient (`shaders/batch_norm_*.wgsl`).

use burn::backend::wgpu::{CubeBackend, CubeTensor};

use super::{BatchNormOptions, BatchNormalization, reference};
use crate::ops::runtime::launch::{self, Kernel, THREADS, kernel};

/// Maximum parts that a channel of a view is split into: the maximum threads of the kernels that add them up.
const PARTS: usize = 64;

/// Values that are worth a workgroup of their own: eight per thread.
const MIN_VALUES_PER_WORKGROUP: usize = 8 * THREADS;

/// Channels per workgroup where they are neighbours in memory.
const LANES: usize = 32;

/// The sizes of a batch.
struct Batch {
    channels: usize,
    /// Values of one channel in one picture.
    positions: usize,
    views: usize,
    /// Pictures in a view.
    pictures: usize,
    /// Maximum threads per workgroup in the kernels that sum.
    sharing: usize,
}

impl Batch {
    fn new(x: &CubeTensor, views: usize) -> Self {
        let shape = x.meta.shape();
        let (pictures, channels) = (shape[0], shape[1]);
        Self {
            channels,
            positions: shape.num_elements() / (pictures * channels),
            views,
            pictures: pictures / views,
            sharing: launch::reduction_threads(x),
        }
    }

    /// Values in a view.
    fn view(&self) -> usize {
        self.pictures * self.channels * self.positions
    }

    /// Values of one channel in a view.
    fn count(&self) -> usize {
        self.pictures * self.positions
    }

    fn lanes(&self) -> usize {
        if self.positions == 1 { LANES } else { 1 }
    }

    /// The number of parts that a channel of a view is split into, and the values per part.
    fn parts(&self) -> (usize, usize) {
        let min = MIN_VALUES_PER_WORKGROUP / self.lanes();
        let wanted = self.count().div_ceil(min).clamp(1, PARTS);
        let share = self.count().div_ceil(wanted);
        (self.count().div_ceil(share), share)
    }

    /// `kernel` set up for sums over the parts, and its workgroups.
    fn sums(&self, kernel: Kernel) -> (Kernel, [usize; 3]) {
        let kernel = self
            .of_values(kernel)
            .set("LANES", self.lanes())
            .set("THREADS", self.threads());
        let blocks = self.channels.div_ceil(self.lanes());
        (kernel, [self.parts().0, blocks, self.views])
    }

    /// Threads per part. More than a part keeps busy would only wait for each other, which costs most where threads are
    /// simulated.
    fn threads(&self) -> usize {
        let values_per_thread = MIN_VALUES_PER_WORKGROUP / self.sharing;
        let wanted = (self.parts().1 * self.lanes()).div_ceil(values_per_thread);
        wanted.next_power_of_two().clamp(self.lanes(), self.sharing)
    }

    /// `kernel` set up to combine a channel's parts, one thread per part, and its workgroups.
    fn finish(&self, kernel: Kernel) -> (Kernel, [usize; 3]) {
        let kernel = kernel.set("THREADS", self.parts().0.next_power_of_two());
        (kernel, [self.channels, 1, 1])
    }

    /// `kernel` set up for the values of this batch.
    fn of_values(&self, kernel: Kernel) -> Kernel {
        kernel
            .set("CHANNELS", self.channels)
            .set("POSITIONS", self.positions)
    }
}

#[allow(clippy::too_many_arguments)]
fn apply(
    batch: &Batch,
    x: &CubeTensor,
    [gamma, beta, mean, variance]: [&CubeTensor; 4],
    residual: Option<CubeTensor>,
    epsilon: f64,
    relu: bool,
) -> CubeTensor {
    let y = launch::empty(x, x.meta.shape().clone());
    let residual = residual.map(launch::contiguous);
    let count = x.meta.num_elements();
    let kernel = kernel!("batch_norm_apply")
        .choose("RESIDUAL", residual.is_some())
        .choose("RELU", relu);
    let residual = residual.map_or_else(|| launch::placeholder_buffer(&x.client), |r| r.handle);
    batch.of_values(kernel).launch(
        &x.client,
        launch::workgroups_for(count),
        &[
            &x.handle,
            &gamma.handle,
            &beta.handle,
            &mean.handle,
            &variance.handle,
            &residual,
            &y.handle,
        ],
        &[count.into(), batch.view().into(), (epsilon as f32).into()],
    );
    y
}

impl BatchNormalization for CubeBackend {
    fn normalize_batch(
        x: CubeTensor,
        gamma: CubeTensor,
        beta: CubeTensor,
        residual: CubeTensor,
        running_mean: CubeTensor,
        running_variance: CubeTensor,
        has_residual: bool,
        options: BatchNormOptions,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let residual = has_residual.then_some(residual);
        if !launch::available(&x) {
            return reference::train::<Self>(
                x,
                gamma,
                beta,
                residual,
                running_mean,
                running_variance,
                options,
            );
        }
        let [x, gamma, beta] = [x, gamma, beta].map(launch::contiguous);
        let [running_mean, running_variance] =
            [running_mean, running_variance].map(launch::contiguous);
        let batch = Batch::new(&x, options.views);
        let (channels, client) = (batch.channels, &x.client);
        let (parts, share) = batch.parts();
        let sums = client.empty(3 * options.views * channels * parts * size_of::<f32>());
        let (statistics, workgroups) = batch.sums(kernel!("batch_norm_statistics"));
        statistics.launch(
            client,
            workgroups,
            &[&x.handle, &sums],
            &[batch.pictures.into(), share.into()],
        );
        let [mean, variance] = [(); 2].map(|()| launch::empty(&x, [options.views, channels]));
        let [new_mean, new_variance] = [(); 2].map(|()| launch::empty(&x, [channels]));
        let (finish, workgroups) = batch.finish(kernel!("batch_norm_finish"));
        finish.launch(
            client,
            workgroups,
            &[
                &sums,
                &mean.handle,
                &variance.handle,
                &running_mean.handle,
                &running_variance.handle,
                &new_mean.handle,
                &new_variance.handle,
            ],
            &[
                channels.into(),
                parts.into(),
                options.views.into(),
                batch.count().into(),
                (options.momentum as f32).into(),
            ],
        );
        let y = apply(
            &batch,
            &x,
            [&gamma, &beta, &mean, &variance],
            residual,
            options.epsilon,
            options.relu,
        );
        (y, mean, variance, new_mean, new_variance)
    }

    fn normalize_batch_gradient(
        x: CubeTensor,
        y: CubeTensor,
        gamma: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        gradient: CubeTensor,
        has_residual: bool,
        options: BatchNormOptions,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        if !launch::available(&x) {
            return reference::gradient::<Self>(x, y, gamma, mean, variance, gradient, options);
        }
        let [x, y, gamma, mean, variance, gradient] =
            [x, y, gamma, mean, variance, gradient].map(launch::contiguous);
        let batch = Batch::new(&x, options.views);
        let (channels, client) = (batch.channels, &x.client);
        let (parts, share) = batch.parts();
        let sums = client.empty(2 * options.views * channels * parts * size_of::<f32>());
        let kernel = kernel!("batch_norm_gradient_sums").choose("RELU", options.relu);
        let (kernel, workgroups) = batch.sums(kernel);
        kernel.launch(
            client,
            workgroups,
            &[&x.handle, &y.handle, &gradient.handle, &mean.handle, &sums],
            &[batch.pictures.into(), share.into()],
        );
        let coefficients = client.empty(4 * options.views * channels * size_of::<f32>());
        let [grad_gamma, grad_beta] = [(); 2].map(|()| launch::empty(&x, [channels]));
        let (finish, workgroups) = batch.finish(kernel!("batch_norm_gradient_finish"));
        finish.launch(
            client,
            workgroups,
            &[
                &sums,
                &gamma.handle,
                &mean.handle,
                &variance.handle,
                &coefficients,
                &grad_gamma.handle,
                &grad_beta.handle,
            ],
            &[
                channels.into(),
                parts.into(),
                options.views.into(),
                batch.count().into(),
                (options.epsilon as f32).into(),
            ],
        );
        let grad_x = launch::empty(&x, x.meta.shape().clone());
        // Without a ReLU the residual's gradient is the output's gradient.
        let written =
            (has_residual && options.relu).then(|| launch::empty(&x, x.meta.shape().clone()));
        let count = x.meta.num_elements();
        let kernel = kernel!("batch_norm_gradient")
            .choose("RELU", options.relu)
            .choose("RESIDUAL", written.is_some());
        let grad_residual = written
            .as_ref()
            .map_or_else(|| launch::placeholder_buffer(client), |r| r.handle.clone());
        batch.of_values(kernel).launch(
            client,
            launch::workgroups_for(count),
            &[
                &x.handle,
                &y.handle,
                &gradient.handle,
                &coefficients,
                &grad_x.handle,
                &grad_residual,
            ],
            &[count.into(), batch.view().into()],
        );
        let grad_residual = written.unwrap_or(gradient);
        (grad_x, grad_gamma, grad_beta, grad_residual)
    }

    fn normalize_frozen(
        x: CubeTensor,
        gamma: CubeTensor,
        beta: CubeTensor,
        residual: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        has_residual: bool,
        epsilon: f64,
        relu: bool,
    ) -> CubeTensor {
        let residual = has_residual.then_some(residual);
        if !launch::available(&x) {
            return reference::frozen::<Self>(
                x, gamma, beta, residual, mean, variance, epsilon, relu,
            );
        }
        let [x, gamma, beta, mean, variance] =
            [x, gamma, beta, mean, variance].map(launch::contiguous);
        let batch = Batch::new(&x, 1);
        let of_channels = [&gamma, &beta, &mean, &variance];
        apply(&batch, &x, of_channels, residual, epsilon, relu)
    }
}
