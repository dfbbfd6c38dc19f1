//! Batch normalization on a wgpu device: three kernels either way (`shaders/batch_norm_*.wgsl`).

use burn::backend::wgpu::{CubeBackend, CubeTensor};

use super::{BatchNormalization, Normalize, twin};
use crate::ops::wgsl::{self, Kernel, THREADS, kernel};

/// The parts that a channel of a view is cut into, at most: the threads that add them up.
const PARTS: usize = 64;

/// Values that are worth a workgroup of their own.
const LEAST_SHARE: usize = 8 * THREADS;

/// Channels that a workgroup takes where they lie side by side.
const LANES: usize = 32;

/// The sizes of a batch.
struct Batch {
    channels: usize,
    /// Values of one channel in one picture.
    positions: usize,
    views: usize,
    /// Pictures in a view.
    pictures: usize,
    /// Threads that share a workgroup's sums.
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
            sharing: wgsl::sharing_threads(x),
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

    /// Into how many parts a channel of a view is cut, and how many values they have.
    fn parts(&self) -> (usize, usize) {
        let least = LEAST_SHARE / self.lanes();
        let wanted = self.count().div_ceil(least).clamp(1, PARTS);
        let share = self.count().div_ceil(wanted);
        (self.count().div_ceil(share), share)
    }

    /// `kernel` for sums over the parts, and its workgroups.
    fn sums(&self, kernel: Kernel) -> (Kernel, [usize; 3]) {
        let kernel = self
            .of_values(kernel)
            .set("LANES", self.lanes())
            .set("THREADS", self.threads());
        let blocks = self.channels.div_ceil(self.lanes());
        (kernel, [self.parts().0, blocks, self.views])
    }

    /// The threads that share a part. More than it keeps busy would only wait for each other, which costs most where
    /// threads are simulated.
    fn threads(&self) -> usize {
        let values_a_thread = LEAST_SHARE / self.sharing;
        let wanted = (self.parts().1 * self.lanes()).div_ceil(values_a_thread);
        wanted.next_power_of_two().clamp(self.lanes(), self.sharing)
    }

    /// `kernel` for what is made of a channel's parts, a thread a part, and its workgroups.
    fn finish(&self, kernel: Kernel) -> (Kernel, [usize; 3]) {
        let kernel = kernel.set("THREADS", self.parts().0.next_power_of_two());
        (kernel, [self.channels, 1, 1])
    }

    /// `kernel` for every value.
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
    let y = wgsl::empty(x, x.meta.shape().clone());
    let residual = residual.map(wgsl::contiguous);
    let count = x.meta.num_elements();
    let kernel = kernel!("batch_norm_apply")
        .choose("RESIDUAL", residual.is_some())
        .choose("RELU", relu);
    let residual = residual.map_or_else(|| wgsl::nothing(&x.client), |r| r.handle);
    batch.of_values(kernel).launch(
        &x.client,
        wgsl::groups_for(count),
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
        how: Normalize,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let residual = has_residual.then_some(residual);
        if !wgsl::available(&x) {
            return twin::train::<Self>(
                x,
                gamma,
                beta,
                residual,
                running_mean,
                running_variance,
                how,
            );
        }
        let [x, gamma, beta] = [x, gamma, beta].map(wgsl::contiguous);
        let [running_mean, running_variance] =
            [running_mean, running_variance].map(wgsl::contiguous);
        let batch = Batch::new(&x, how.views);
        let (channels, client) = (batch.channels, &x.client);
        let (parts, share) = batch.parts();
        let sums = client.empty(3 * how.views * channels * parts * size_of::<f32>());
        let (statistics, workgroups) = batch.sums(kernel!("batch_norm_statistics"));
        statistics.launch(
            client,
            workgroups,
            &[&x.handle, &sums],
            &[batch.pictures.into(), share.into()],
        );
        let [mean, variance] = [(); 2].map(|()| wgsl::empty(&x, [how.views, channels]));
        let [new_mean, new_variance] = [(); 2].map(|()| wgsl::empty(&x, [channels]));
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
                how.views.into(),
                batch.count().into(),
                (how.momentum as f32).into(),
            ],
        );
        let y = apply(
            &batch,
            &x,
            [&gamma, &beta, &mean, &variance],
            residual,
            how.epsilon,
            how.relu,
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
        how: Normalize,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        if !wgsl::available(&x) {
            return twin::gradient::<Self>(x, y, gamma, mean, variance, gradient, how);
        }
        let [x, y, gamma, mean, variance, gradient] =
            [x, y, gamma, mean, variance, gradient].map(wgsl::contiguous);
        let batch = Batch::new(&x, how.views);
        let (channels, client) = (batch.channels, &x.client);
        let (parts, share) = batch.parts();
        let sums = client.empty(2 * how.views * channels * parts * size_of::<f32>());
        let kernel = kernel!("batch_norm_gradient_sums").choose("RELU", how.relu);
        let (kernel, workgroups) = batch.sums(kernel);
        kernel.launch(
            client,
            workgroups,
            &[&x.handle, &y.handle, &gradient.handle, &mean.handle, &sums],
            &[batch.pictures.into(), share.into()],
        );
        let coefficients = client.empty(4 * how.views * channels * size_of::<f32>());
        let [by_gamma, by_beta] = [(); 2].map(|()| wgsl::empty(&x, [channels]));
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
                &by_gamma.handle,
                &by_beta.handle,
            ],
            &[
                channels.into(),
                parts.into(),
                how.views.into(),
                batch.count().into(),
                (how.epsilon as f32).into(),
            ],
        );
        let by_x = wgsl::empty(&x, x.meta.shape().clone());
        // Without a ReLU the gradient passes to the residual as it is.
        let written = (has_residual && how.relu).then(|| wgsl::empty(&x, x.meta.shape().clone()));
        let count = x.meta.num_elements();
        let kernel = kernel!("batch_norm_gradient")
            .choose("RELU", how.relu)
            .choose("RESIDUAL", written.is_some());
        let by_residual = written
            .as_ref()
            .map_or_else(|| wgsl::nothing(client), |r| r.handle.clone());
        batch.of_values(kernel).launch(
            client,
            wgsl::groups_for(count),
            &[
                &x.handle,
                &y.handle,
                &gradient.handle,
                &coefficients,
                &by_x.handle,
                &by_residual,
            ],
            &[count.into(), batch.view().into()],
        );
        let by_residual = written.unwrap_or(gradient);
        (by_x, by_gamma, by_beta, by_residual)
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
        if !wgsl::available(&x) {
            return twin::frozen::<Self>(x, gamma, beta, residual, mean, variance, epsilon, relu);
        }
        let [x, gamma, beta, mean, variance] =
            [x, gamma, beta, mean, variance].map(wgsl::contiguous);
        let batch = Batch::new(&x, 1);
        let of_channels = [&gamma, &beta, &mean, &variance];
        apply(&batch, &x, of_channels, residual, epsilon, relu)
    }
}
