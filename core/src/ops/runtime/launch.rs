//! Launches the kernels of `shaders/` through burn's wgpu back end.
//!
//! A kernel is a plain WGSL file. Its variants differ in the `const`s at the top, whose values [`Kernel::set`] replaces
//! before the driver compiles the file. Calls differ in the last binding, a uniform buffer of 32-bit numbers. cubecl
//! caches compiled kernels by name and constants.

#[cfg(test)]
pub mod tests;

use burn::backend::wgpu::{
    CubeTensor, KernelSource, SourceKernel, SourceTemplate, into_contiguous,
};
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Shape, Tensor};
use cubecl::prelude::{ExecutionMode, KernelId};
use cubecl::server::{Handle, KernelArguments, MetadataBindingInfo};
use cubecl::{CubeCount, CubeDim, client::Client};

use super::dry_run;
use super::measure;
use super::reference::reference_requested;
use crate::device::is_simulated;

/// Threads per workgroup in kernels with one-dimensional workgroups; WebGPU's default limit.
pub const THREADS: usize = 256;

/// Maximum workgroups along one axis of a dispatch; WebGPU's default limit.
pub const WORKGROUPS_PER_AXIS: usize = 65_535;

/// Whether our kernels run on the device of `tensor`: a wgpu device for which cubecl chose its WGSL compiler, outside
/// of [`with_reference_ops`](super::reference::with_reference_ops).
#[inline(always)]
pub fn available(tensor: &CubeTensor) -> bool {
    // A browser always runs WGSL. Deciding this at compile time leaves burn's own products and convolutions, several
    // megabytes, out of the program.
    !reference_requested() && (cfg!(target_family = "wasm") || tensor.client.name() == "wgpu<wgsl>")
}

/// The [`Kernel`] of a file in `shaders/`.
macro_rules! kernel {
    ($name:literal) => {
        $crate::ops::runtime::launch::Kernel::new($name, const { barlow_shaders::source($name) })
    };
}
pub(crate) use kernel;

/// A kernel's source, with the constants to replace in it.
#[derive(Debug, Clone)]
pub struct Kernel {
    name: &'static str,
    source: &'static str,
    constants: Vec<(&'static str, String)>,
    narrowed: Vec<&'static str>,
}

impl Kernel {
    /// A kernel with the constants of its file unchanged; made by [`kernel!`].
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Self {
            name,
            source,
            constants: Vec::new(),
            narrowed: Vec::new(),
        }
    }

    /// Gives the file's `const constant: u32` another value.
    pub fn set(mut self, constant: &'static str, value: usize) -> Self {
        self.constants.push((constant, format!("{value}u")));
        self
    }

    /// Gives the file's `const constant: bool` another value.
    pub fn choose(mut self, constant: &'static str, value: bool) -> Self {
        self.constants.push((constant, value.to_string()));
        self
    }

    /// Changes the file's `alias name = f32` to `f16`, which the adapter has to support.
    pub fn narrow(mut self, name: &'static str) -> Self {
        self.narrowed.push(name);
        self
    }

    /// The source with the constants replaced and its directives expanded.
    ///
    /// # Panics
    /// If the file has no constant or alias of that name.
    pub fn text(&self) -> String {
        let mut text = barlow_shaders::expand(self.source, &self.constants);
        for name in &self.narrowed {
            let wide = format!("alias {name} = f32;");
            assert!(text.contains(&wide), "{}.wgsl has no {wide}", self.name);
            text = text.replace(&wide, &format!("alias {name} = f16;"));
        }
        if !self.narrowed.is_empty() && !text.contains("enable f16;") {
            text.insert_str(0, "enable f16;\n");
        }
        text
    }

    /// Runs the kernel on `buffers`, in the order of its bindings, followed by `numbers` as its uniform buffer.
    pub fn launch(
        self,
        client: &Client,
        workgroups: [usize; 3],
        buffers: &[&Handle],
        numbers: &[Number],
    ) {
        if workgroups.contains(&0) {
            return;
        }
        #[cfg(test)]
        {
            tests::check_once(&self);
            for (i, a) in buffers.iter().enumerate() {
                let overlaps = buffers[..i].iter().any(|b| overlap(a, b));
                assert!(!overlaps, "{}: two bindings overlap", self.name);
            }
        }
        assert!(
            workgroups.iter().all(|n| *n <= WORKGROUPS_PER_AXIS),
            "{}: {workgroups:?} workgroups are more than WebGPU allows",
            self.name
        );
        let bytes = buffers.iter().map(|handle| handle.size_in_used()).sum();
        if dry_run::record(client, self.name, || self.text(), workgroups, bytes) {
            return;
        }
        measure::count(bytes);
        let mut words: Vec<u32> = numbers.iter().map(|number| number.0).collect();
        // The size of a uniform buffer is a multiple of 16 bytes.
        words.resize(words.len().next_multiple_of(4), 0);
        let pairs = words.chunks_exact(2);
        let pairs = pairs.map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32);
        let arguments = KernelArguments::new()
            .with_buffers(buffers.iter().map(|h| (*h).clone().binding()).collect())
            .with_info(MetadataBindingInfo::custom(pairs.collect()));
        let [x, y, z] = workgroups.map(|n| n as u32);
        client.launch(
            // The workgroup size is in the WGSL text; cubecl only checks this one against the device's limits.
            Box::new(SourceKernel::new(self, CubeDim::new_1d(1))),
            CubeCount::Static(x, y, z),
            arguments,
        );
    }
}

impl KernelSource for Kernel {
    fn source(&self) -> SourceTemplate {
        SourceTemplate::new(self.text())
    }

    fn id(&self) -> KernelId {
        // Unchecked: otherwise cubecl adds an iteration counter to every loop, and our loops all terminate.
        KernelId::new::<Self>()
            .info((self.name, self.constants.clone(), self.narrowed.clone()))
            .mode(ExecutionMode::Unchecked)
    }

    fn lang(&self) -> &'static str {
        "wgsl"
    }
}

/// A 32-bit number of a uniform buffer.
#[derive(Debug, Clone, Copy)]
pub struct Number(u32);

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self(u32::try_from(value).expect("numbers must fit in 32 bits"))
    }
}

impl From<f32> for Number {
    fn from(value: f32) -> Self {
        Self(value.to_bits())
    }
}

/// Whether two buffers share memory.
pub fn overlap(a: &Handle, b: &Handle) -> bool {
    let range = |handle: &Handle| {
        let start = handle.offset_start.unwrap_or(0);
        start..start + handle.size_in_used()
    };
    let (first, second) = (range(a), range(b));
    std::ptr::eq(a.memory.descriptor(), b.memory.descriptor())
        && first.start < second.end
        && second.start < first.end
}

/// `tensor` in row-major order; copied only if it is laid out otherwise.
pub fn contiguous(tensor: CubeTensor) -> CubeTensor {
    assert_eq!(tensor.dtype, DType::F32, "the kernels take 32-bit floats");
    into_contiguous(tensor)
}

/// The wgpu tensor in row-major order, or `None` if our kernels do not run where it is.
pub fn on_wgpu(tensor: &Tensor<1>) -> Option<CubeTensor> {
    match tensor.clone().into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(tensor)) if available(&tensor) => {
            Some(contiguous(tensor))
        }
        _ => None,
    }
}

/// A new, uninitialized f32 tensor on the device of `like`.
pub fn empty(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    let shape = shape.into();
    let handle = like.client.empty(shape.num_elements() * size_of::<f32>());
    CubeTensor::new_contiguous(
        like.client.clone(),
        like.device.clone(),
        shape,
        handle,
        DType::F32,
    )
}

/// Threads per workgroup for kernels with many barriers: as many as a workgroup may have on a GPU, and few on a
/// simulated device, where barriers are slow.
pub fn reduction_threads(tensor: &CubeTensor) -> usize {
    const SIMULATED: usize = 32;
    if dry_run::assumed().is_none() && is_simulated(&tensor.device) {
        SIMULATED
    } else {
        THREADS
    }
}

/// Workgroups for a loop over `count` values: one value per thread, or several where a dispatch allows no more threads.
pub fn workgroups_for(count: usize) -> [usize; 3] {
    [count.div_ceil(THREADS).min(WORKGROUPS_PER_AXIS), 1, 1]
}

/// A placeholder buffer for a binding that a kernel's variant does not use; a new one, as no two bindings may overlap.
pub fn placeholder_buffer(client: &Client) -> Handle {
    client.empty(size_of::<[f32; 4]>())
}
