//! All tensors of a network in one buffer, so that an optimizer moves them in a handful of dispatches, whatever their
//! number.
//!
//! A tensor begins at a whole chunk of the arena, so that a workgroup's chunk is of one tensor. What an update wrote stays
//! in its arena: the tensors it returns are parts of it, and the next update finds them where they are. Only gradients,
//! which a backward pass leaves anywhere, are copied in, six a dispatch.

use burn::backend::wgpu::CubeTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Shape, Tensor};
use cubecl::client::Client;
use cubecl::server::Handle;

use super::wgsl::{self, Number, kernel};

/// Values of an arena that a workgroup takes, `CHUNK` of the kernels.
const CHUNK: usize = 2048;

/// Tensors that a dispatch copies: with the arena and WebGPU's default limits, no more can be bound.
const SOURCES: usize = 6;

/// A tensor of a network as an optimizer sees it, in one dimension.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The tensor.
    pub value: Tensor<1>,
    /// The loss's gradient by it.
    pub gradient: Tensor<1>,
    /// What the update rule remembers of it; zeros at first.
    pub memory: Vec<Tensor<1>>,
    /// Whether it has two dimensions or more: those of one take no part in weight decay and adaptation.
    pub is_weight: bool,
}

/// A tensor after an update.
#[derive(Debug, Clone)]
pub struct Moved {
    /// The tensor.
    pub value: Tensor<1>,
    /// What the update rule remembers now.
    pub memory: Vec<Tensor<1>>,
}

/// The tensor on a wgpu device, if it is on one and kernels of ours run there.
pub fn on_wgpu(tensor: &Tensor<1>) -> Option<CubeTensor> {
    match tensor.clone().into_dispatch().kind {
        DispatchTensorKind::Cube(BackendTensor::Float(tensor)) if wgsl::available(&tensor) => {
            Some(wgsl::contiguous(tensor))
        }
        _ => None,
    }
}

/// The parameters in groups whose arenas a device can bind, each with its arena; `None` where no kernels of ours run.
pub fn arenas(parameters: &[Parameter]) -> Option<Vec<Arena<'_>>> {
    let first = on_wgpu(&parameters.first()?.value)?;
    let most = first.client.properties().memory.max_page_size as usize / size_of::<f32>();
    let mut arenas = Vec::new();
    let (mut start, mut length) = (0, 0);
    for (number, parameter) in parameters.iter().enumerate() {
        let more = parameter.value.dims()[0].next_multiple_of(CHUNK);
        if number > start && length + more > most {
            arenas.push(Arena::new(&parameters[start..number], &first));
            (start, length) = (number, 0);
        }
        length += more;
    }
    arenas.push(Arena::new(&parameters[start..], &first));
    Some(arenas)
}

/// Where everything is.
pub struct Arena<'a> {
    parameters: &'a [Parameter],
    /// Where each tensor begins, and how many values it has.
    places: Vec<(usize, usize)>,
    length: usize,
    like: CubeTensor,
}

impl<'a> Arena<'a> {
    /// The arena of these parameters, which are where `like` is.
    fn new(parameters: &'a [Parameter], like: &CubeTensor) -> Self {
        let mut length = 0;
        let places = parameters.iter().map(|parameter| {
            let start = length;
            let count = parameter.value.dims()[0];
            length += count.next_multiple_of(CHUNK);
            (start, count)
        });
        Self {
            places: places.collect(),
            parameters,
            length,
            like: like.clone(),
        }
    }

    /// Where kernels are launched.
    pub fn client(&self) -> &Client {
        &self.like.client
    }

    /// How many tensors there are.
    pub fn count(&self) -> usize {
        self.parameters.len()
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.length / CHUNK
    }

    /// A workgroup a chunk, where a dispatch has room for them.
    pub fn workgroups(&self) -> [usize; 3] {
        [self.chunks().min(wgsl::WORKGROUPS_AN_AXIS), 1, 1]
    }

    /// The kernels' table of the chunks: tensor, where its values end, and whether it is a weight.
    pub fn chunk_table(&self) -> Handle {
        let tensors = self.places.iter().zip(self.parameters).enumerate();
        self.table(tensors.flat_map(|(number, ((start, count), parameter))| {
            let (end, is_weight) = (start + count, usize::from(parameter.is_weight));
            let chunks = (start + CHUNK..).step_by(CHUNK).take(count.div_ceil(CHUNK));
            chunks.flat_map(move |chunk_end| [number, end.min(chunk_end), is_weight, 0])
        }))
    }

    /// The kernels' table of the tensors: the first chunk, and where the chunks end.
    pub fn tensor_table(&self) -> Handle {
        let chunks =
            |(start, count): &(usize, usize)| [*start, start + count].map(|n| n.div_ceil(CHUNK));
        self.table(self.places.iter().flat_map(chunks))
    }

    fn table(&self, words: impl Iterator<Item = usize>) -> Handle {
        let bytes: Vec<u8> = words.flat_map(|word| (word as u32).to_le_bytes()).collect();
        self.client().create_from_slice(&bytes)
    }

    /// Memory for another arena.
    pub fn empty(&self) -> Handle {
        self.client().empty(self.length * size_of::<f32>())
    }

    /// One tensor of each parameter in an arena: the one that they already lie in, or copies.
    pub fn pack(&self, tensor: impl Fn(&Parameter) -> &Tensor<1>) -> Handle {
        let tensors: Vec<CubeTensor> = self
            .parameters
            .iter()
            .map(|parameter| on_wgpu(tensor(parameter)).expect("all parameters are on one device"))
            .collect();
        if let Some(arena) = self.common(&tensors) {
            return arena;
        }
        let arena = self.empty();
        for (tensors, places) in tensors.chunks(SOURCES).zip(self.places.chunks(SOURCES)) {
            let unused: Vec<Handle> = (tensors.len()..SOURCES)
                .map(|_| wgsl::nothing(self.client()))
                .collect();
            let mut buffers: Vec<&Handle> = tensors.iter().map(|t| &t.handle).collect();
            buffers.extend(&unused);
            buffers.push(&arena);
            let longest = places.iter().map(|(_, count)| *count).max().unwrap_or(0);
            let mut numbers: Vec<Number> = places
                .iter()
                .flat_map(|(start, count)| [*start, *count, 0, 0].map(Number::from))
                .collect();
            numbers.resize(4 * SOURCES, 0.into());
            let [x, y, _] = wgsl::groups_for(longest);
            kernel!("pack").launch(self.client(), [x, y, tensors.len()], &buffers, &numbers);
        }
        arena
    }

    /// The arena that all of `tensors` are parts of, at their places, if there is one.
    fn common(&self, tensors: &[CubeTensor]) -> Option<Handle> {
        let first = &tensors.first()?.handle;
        let bytes = (self.length * size_of::<f32>()) as u64;
        let in_place = tensors
            .iter()
            .zip(&self.places)
            .all(|(tensor, (start, _))| {
                let handle = &tensor.handle;
                std::ptr::eq(handle.memory.descriptor(), first.memory.descriptor())
                    && handle.size() == bytes
                    && handle.offset_start.unwrap_or(0) == (start * size_of::<f32>()) as u64
            });
        in_place
            .then(|| Handle::from_memory(first.memory.clone(), first.service, first.stream, bytes))
    }

    /// The part of `arena` that belongs to the parameter of that number.
    fn part(&self, arena: &Handle, number: usize) -> Tensor<1> {
        let (start, count) = self.places[number];
        let bytes = |values: usize| (values * size_of::<f32>()) as u64;
        let handle = arena
            .clone()
            .offset_start(bytes(start))
            .offset_end(bytes(self.length - start - count));
        let part = CubeTensor::new_contiguous(
            self.like.client.clone(),
            self.like.device.clone(),
            Shape::from([count]),
            handle,
            DType::F32,
        );
        let mut dispatch = self.parameters[number].value.clone().into_dispatch();
        dispatch.kind = DispatchTensorKind::Cube(BackendTensor::Float(part));
        Tensor::from_dispatch(dispatch)
    }

    /// The parameters after an update that wrote these arenas.
    pub fn moved(&self, value: &Handle, memory: &[Handle]) -> Vec<Moved> {
        (0..self.parameters.len())
            .map(|number| Moved {
                value: self.part(value, number),
                memory: memory
                    .iter()
                    .map(|arena| self.part(arena, number))
                    .collect(),
            })
            .collect()
    }
}
