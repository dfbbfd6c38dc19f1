//! Arenas: all tensors of a network in one buffer, so that an optimizer updates them in a few dispatches, however many
//! there are.
//!
//! Each tensor starts at a multiple of a chunk, so that a workgroup's chunk belongs to one tensor. The results of an
//! update stay in their arena: the tensors it returns are slices of it, and the next update reads them in place. So are
//! gradients that a backward pass wrote into [`gradient_buffers`]; from separate buffers they are copied in, six per dispatch.

use std::cell::RefCell;

use burn::backend::wgpu::CubeTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Shape, Tensor};
use cubecl::Device as CubeDevice;
use cubecl::client::Client;
use cubecl::server::Handle;

use super::launch::{self, Number, kernel, on_wgpu};

/// Values per chunk, the part of an arena that a workgroup processes at a time; `CHUNK` in the kernels.
const CHUNK: usize = 2048;

/// Tensors that one dispatch copies; with the arena they stay within WebGPU's default limit of bound buffers.
const SOURCES: usize = 6;

/// How many of the first tensors of `counts` values share an arena of at most `max` values, at least one; and its length.
fn first_arena(counts: impl Iterator<Item = usize>, max: usize) -> (usize, usize) {
    let (mut tensors, mut length) = (0, 0);
    for count in counts {
        let more = count.next_multiple_of(CHUNK);
        if tensors > 0 && length + more > max {
            break;
        }
        (tensors, length) = (tensors + 1, length + more);
    }
    (tensors, length)
}

/// Values that a buffer of the device can hold.
fn most_values(client: &Client) -> usize {
    client.properties().memory.max_page_size as usize / size_of::<f32>()
}

/// Memory for the gradients of a network's parameters of `counts` values, in the order in which the optimizer gets them, laid
/// out as it reads them.
pub fn gradient_buffers(client: &Client, counts: &[usize]) -> Vec<Handle> {
    let max = most_values(client);
    let bytes = |values: usize| (values * size_of::<f32>()) as u64;
    let mut buffers = Vec::new();
    while let counts @ [_, ..] = &counts[buffers.len()..] {
        let (tensors, length) = first_arena(counts.iter().copied(), max);
        let arena = client.empty(length * size_of::<f32>());
        let mut start = 0;
        for count in &counts[..tensors] {
            let rest = length - start - count;
            let buffer = arena.clone().offset_start(bytes(start));
            buffers.push(buffer.offset_end(bytes(rest)));
            start += count.next_multiple_of(CHUNK);
        }
    }
    buffers
}

/// A parameter of a network, flattened to one dimension, with its gradient and the optimizer's state.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The parameter.
    pub value: Tensor<1>,
    /// The gradient of the loss with respect to it.
    pub gradient: Tensor<1>,
    /// The optimizer's state for it: momentum or moments, zeros at first.
    pub memory: Vec<Tensor<1>>,
    /// Whether the network's tensor has two or more dimensions. One-dimensional tensors have a learning rate of their
    /// own and are not adapted; AdamW never decays them, LARS only with `decay_biases`.
    pub is_weight: bool,
}

impl Parameter {
    /// The same parameter with its gradient multiplied by `unscale`.
    pub(in crate::ops) fn unscaled(&self, unscale: f32) -> Self {
        let mut parameter = self.clone();
        if unscale != 1.0 {
            parameter.gradient = parameter.gradient.mul_scalar(unscale);
        }
        parameter
    }
}

/// Numbers on the device that show whether gradients are finite.
#[derive(Debug, Clone)]
pub struct Finiteness {
    /// What is to be read; nothing if there are no gradients.
    pub numbers: Option<Tensor<1>>,
    /// Whether the numbers are counts of those that are not finite, in the bits of a float; else they are sums of all.
    is_count: bool,
}

impl Finiteness {
    /// Computes the numbers for the gradients of all parameters.
    pub fn of(parameters: &[Parameter]) -> Self {
        let Some(arenas) = arenas(parameters) else {
            // A sum, because the maximum ignores NaN on some devices.
            let sums = parameters.iter().map(|p| p.gradient.clone().abs().sum());
            let sums: Vec<Tensor<1>> = sums.map(|sum| sum.reshape([1])).collect();
            return Self {
                numbers: (!sums.is_empty()).then(|| Tensor::cat(sums, 0)),
                is_count: false,
            };
        };
        Self {
            numbers: Some(count_not_finite(parameters, &arenas)),
            is_count: true,
        }
    }

    /// Whether all gradients are finite, given the numbers as they were read.
    pub fn holds(&self, numbers: &[f32]) -> bool {
        // 0 is the only float whose bits are all 0.
        let holds = |number: &f32| match self.is_count {
            true => number.to_bits() == 0,
            false => number.is_finite(),
        };
        numbers.iter().all(holds)
    }
}

fn count_not_finite(parameters: &[Parameter], arenas: &[Arena<'_>]) -> Tensor<1> {
    let count = Tensor::<1>::zeros([1], &parameters[0].value.device());
    let buffer = on_wgpu(&count).expect("the parameters are on a wgpu device");
    for arena in arenas {
        let gradients = arena.pack(|parameter| &parameter.gradient);
        kernel!("count_not_finite").launch(
            arena.client(),
            arena.workgroups(),
            &[&arena.chunk_table(), &gradients, &buffer.handle],
            &[arena.chunks().into()],
        );
    }
    count
}

/// A parameter after an update.
#[derive(Debug, Clone)]
pub struct Updated {
    /// The parameter.
    pub value: Tensor<1>,
    /// The optimizer's new state for it.
    pub memory: Vec<Tensor<1>>,
}

/// What a table depends on.
#[derive(PartialEq)]
struct Layout {
    device: CubeDevice,
    /// Whether it is the table of chunks, or that of tensors.
    of_chunks: bool,
    /// The start of each tensor, its number of values, and whether it is a weight.
    tensors: Vec<((usize, usize), bool)>,
}

/// Tables that are kept; a run has two for each of its few arenas.
const MOST_TABLES: usize = 16;

thread_local! {
    static TABLES: RefCell<Vec<(Layout, Handle)>> = const { RefCell::new(Vec::new()) };
}

/// Splits the parameters into arenas that each fit in one buffer of the device; `None` where our kernels do not run.
pub fn arenas(parameters: &[Parameter]) -> Option<Vec<Arena<'_>>> {
    let first = on_wgpu(&parameters.first()?.value)?;
    let max = most_values(&first.client);
    let (mut rest, mut arenas) = (parameters, Vec::new());
    while !rest.is_empty() {
        let counts = rest.iter().map(|parameter| parameter.value.dims()[0]);
        let (group, others) = rest.split_at(first_arena(counts, max).0);
        arenas.push(Arena::new(group, &first));
        rest = others;
    }
    Some(arenas)
}

/// The layout of a group of parameters in one buffer.
pub struct Arena<'a> {
    parameters: &'a [Parameter],
    /// The start of each tensor and its number of values.
    places: Vec<(usize, usize)>,
    length: usize,
    like: CubeTensor,
}

impl<'a> Arena<'a> {
    /// The layout of these parameters, which are on the device of `like`.
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

    /// The client that launches kernels on the parameters' device.
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

    /// One workgroup per chunk, up to the limit of a dispatch; the kernels loop over the rest.
    pub fn workgroups(&self) -> [usize; 3] {
        [self.chunks().min(launch::WORKGROUPS_PER_AXIS), 1, 1]
    }

    /// The kernels' table of chunks, 4 words each: the tensor's index, the end of the chunk's values in the arena,
    /// whether the tensor is a weight, and 0.
    pub fn chunk_table(&self) -> Handle {
        self.table(true, || {
            let tensors = self.places.iter().zip(self.parameters).enumerate();
            let words = tensors.flat_map(|(number, ((start, count), parameter))| {
                let (end, is_weight) = (start + count, usize::from(parameter.is_weight));
                let chunks = (start + CHUNK..).step_by(CHUNK).take(count.div_ceil(CHUNK));
                chunks.flat_map(move |chunk_end| [number, end.min(chunk_end), is_weight, 0])
            });
            words.collect()
        })
    }

    /// The kernels' table of tensors, 2 words each: the first chunk, and the end of the chunks.
    pub fn tensor_table(&self) -> Handle {
        let chunks =
            |(start, count): &(usize, usize)| [*start, start + count].map(|n| n.div_ceil(CHUNK));
        self.table(false, || self.places.iter().flat_map(chunks).collect())
    }

    /// A table of this thread for this layout, which `words` makes if there is none yet. The tables of a large network have
    /// megabytes, and an update begins with them, while the device waits.
    fn table(&self, of_chunks: bool, words: impl FnOnce() -> Vec<usize>) -> Handle {
        let weights = self.parameters.iter().map(|parameter| parameter.is_weight);
        let layout = Layout {
            device: self.like.device.clone(),
            of_chunks,
            tensors: self.places.iter().copied().zip(weights).collect(),
        };
        TABLES.with_borrow_mut(|tables| {
            if let Some((_, table)) = tables.iter().find(|(known, _)| *known == layout) {
                return table.clone();
            }
            let words = words().into_iter();
            let bytes: Vec<u8> = words.flat_map(|word| (word as u32).to_le_bytes()).collect();
            let table = self.client().create_from_slice(&bytes);
            if tables.len() == MOST_TABLES {
                tables.remove(0);
            }
            tables.push((layout, table.clone()));
            table
        })
    }

    /// Allocates an uninitialized arena of this layout.
    pub fn empty(&self) -> Handle {
        self.client().empty(self.length * size_of::<f32>())
    }

    /// An arena with one tensor of each parameter: the arena that already holds them all, or a copy.
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
                .map(|_| launch::placeholder_buffer(self.client()))
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
            let [x, y, _] = launch::workgroups_for(longest);
            kernel!("pack").launch(self.client(), [x, y, tensors.len()], &buffers, &numbers);
        }
        arena
    }

    /// The arena that already holds all of `tensors` in this layout, if there is one.
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

    /// The slice of `arena` that holds the parameter with index `number`.
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

    /// The updated parameters, as slices of the arenas that the update wrote.
    pub fn updated(&self, value: &Handle, memory: &[Handle]) -> Vec<Updated> {
        (0..self.parameters.len())
            .map(|number| Updated {
                value: self.part(value, number),
                memory: memory
                    .iter()
                    .map(|arena| self.part(arena, number))
                    .collect(),
            })
            .collect()
    }
}
