//! Launching the kernels of `shaders/` through burn's wgpu back end.
//!
//! A kernel is a WGSL file as it stands. What varies between its variants is a `const` at the top, which [`Kernel::set`]
//! gives another value before the driver compiles it; what varies between calls is in its last binding, a uniform
//! buffer of 32-bit numbers. cubecl keeps compiled kernels by name and constants.

#[cfg(test)]
pub mod tests;

use burn::backend::wgpu::{
    CubeTensor, KernelSource, SourceKernel, SourceTemplate, into_contiguous,
};
use burn::tensor::{DType, Shape};
use cubecl::prelude::{ExecutionMode, KernelId};
use cubecl::server::{Handle, KernelArguments, MetadataBindingInfo};
use cubecl::{CubeCount, CubeDim, client::Client};

use super::measure::twins_asked;
use crate::device::is_simulated;

/// The threads of a workgroup in kernels whose workgroups are a line; WebGPU's default limit.
pub const THREADS: usize = 256;

/// Workgroups along one axis of a dispatch, at most; WebGPU's default limit.
pub const WORKGROUPS_AN_AXIS: usize = 65_535;

/// Whether kernels of ours run where `tensor` is: on a wgpu device for which cubecl chose its WGSL compiler, outside of
/// [`with_twins`](super::measure::with_twins).
#[inline(always)]
pub fn available(tensor: &CubeTensor) -> bool {
    // In a browser there is nothing but WGSL. That this is known when the program is built leaves out burn's own
    // products and convolutions, megabytes of them.
    !twins_asked() && (cfg!(target_family = "wasm") || tensor.client.name() == "wgpu<wgsl>")
}

/// Reads a kernel's source into the program.
macro_rules! kernel {
    ($name:literal) => {
        $crate::ops::wgsl::Kernel::new(
            $name,
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../shaders/",
                $name,
                ".wgsl"
            )),
        )
    };
}
pub(crate) use kernel;

/// A kernel, with its constants.
#[derive(Debug, Clone)]
pub struct Kernel {
    name: &'static str,
    source: &'static str,
    constants: Vec<(&'static str, String)>,
    narrowed: Option<&'static str>,
}

impl Kernel {
    /// The kernel of that name with the constants that its file has; see [`kernel!`].
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Self {
            name,
            source,
            constants: Vec::new(),
            narrowed: None,
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

    /// Makes the file's `alias name = f32` 16 bits wide, which the adapter has to know.
    pub fn narrow(mut self, name: &'static str) -> Self {
        self.narrowed = Some(name);
        self
    }

    /// The source with the constants in place.
    ///
    /// # Panics
    /// If the file has no constant or alias of that name.
    pub fn text(&self) -> String {
        let mut text = self.source.to_owned();
        for (name, value) in &self.constants {
            let declaration = format!("\nconst {name}: ");
            let found = text.find(&declaration).and_then(|start| {
                let equals = start + text[start..].find("= ")? + 2;
                Some(equals..equals + text[equals..].find(';')?)
            });
            let Some(range) = found else {
                panic!("{}.wgsl has no constant {name}", self.name);
            };
            text.replace_range(range, value);
        }
        if let Some(name) = self.narrowed {
            let wide = format!("alias {name} = f32;");
            assert!(text.contains(&wide), "{}.wgsl has no {wide}", self.name);
            text = text.replace(&wide, &format!("alias {name} = f16;"));
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
                assert!(!overlaps, "{}: WebGPU binds no buffer twice", self.name);
            }
        }
        assert!(
            workgroups.iter().all(|n| *n <= WORKGROUPS_AN_AXIS),
            "{}: {workgroups:?} workgroups",
            self.name
        );
        let mut words: Vec<u32> = numbers.iter().map(|number| number.0).collect();
        // A uniform buffer is a whole number of 16 bytes.
        words.resize(words.len().next_multiple_of(4), 0);
        let pairs = words.chunks_exact(2);
        let pairs = pairs.map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32);
        let arguments = KernelArguments::new()
            .with_buffers(buffers.iter().map(|h| (*h).clone().binding()).collect())
            .with_info(MetadataBindingInfo::custom(pairs.collect()));
        let [x, y, z] = workgroups.map(|n| n as u32);
        client.launch(
            // The kernels state their own workgroup size; cubecl only checks this one against the device.
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
        // Unchecked: cubecl would count the turns of every loop, though ours all end.
        KernelId::new::<Self>()
            .info((self.name, self.constants.clone(), self.narrowed))
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
        Self(u32::try_from(value).expect("WGSL counts in 32 bits"))
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

/// `tensor` in row-major order. Copies only what is laid out otherwise.
pub fn contiguous(tensor: CubeTensor) -> CubeTensor {
    assert_eq!(tensor.dtype, DType::F32, "the kernels take 32-bit floats");
    into_contiguous(tensor)
}

/// A new tensor where `like` is, with whatever was in its memory.
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

/// Threads that share a workgroup's work where they have to wait for each other at every turn: all that a workgroup has
/// on a GPU, and few where they are simulated.
pub fn sharing_threads(tensor: &CubeTensor) -> usize {
    const SIMULATED: usize = 32;
    if is_simulated(&tensor.device) {
        SIMULATED
    } else {
        THREADS
    }
}

/// Workgroups for a loop over `count` values, a value a thread and several where a dispatch has no room for more.
pub fn groups_for(count: usize) -> [usize; 3] {
    [count.div_ceil(THREADS).min(WORKGROUPS_AN_AXIS), 1, 1]
}

/// Memory for a binding that a kernel's variant makes no use of. Not one of the others: no two may overlap.
pub fn nothing(client: &Client) -> Handle {
    client.empty(size_of::<[f32; 4]>())
}
