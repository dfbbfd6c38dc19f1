//! Reads what `torch.save` writes: a pickle of dictionaries whose tensors refer to storages, and the storages' bytes.
//!
//! Since PyTorch 1.6 that is a zip archive of uncompressed files, `NAME/data.pkl` and `NAME/data/KEY`
//! (`torch/serialization.py`, `_save`); before, five pickles and the storages one after the other (`_legacy_save`).

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;

use zip::ZipArchive;

use crate::pickle::{Id, Pickle, Value};
use crate::weights::{NamedTensor, Number, Problem, Weights};

/// The maximum size of a pickle, in bytes. It only describes the tensors: a few megabytes if there are many.
const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// The maximum length of a tensor's name, in bytes.
const MAX_NAME_LENGTH: usize = 1000;

/// The maximum nesting of dictionaries and lists.
const MAX_DEPTH: usize = 8;

/// Whether a pickle may refer to that name: only those that weights need. They are stored as names, and nothing is run.
fn allow(module: &str, name: &str) -> bool {
    match module {
        "collections" => name == "OrderedDict",
        "torch._utils" => name.starts_with("_rebuild_"),
        "torch._tensor" => name == "_rebuild_from_type_v2",
        "torch" => {
            name.ends_with("Storage")
                || matches!(name, "Size" | "device" | "dtype" | "Tensor" | "strided")
                || ["float", "int", "uint", "bfloat", "complex", "bool"]
                    .iter()
                    .any(|kind| name.starts_with(kind))
        }
        "torch.storage" => matches!(name, "UntypedStorage" | "TypedStorage"),
        "torch.nn.parameter" => name == "Parameter",
        "numpy.core.multiarray" | "numpy._core.multiarray" => name == "scalar",
        "numpy" => name == "dtype",
        "argparse" => name == "Namespace",
        "pathlib" => matches!(name, "PosixPath" | "WindowsPath" | "Path" | "PurePosixPath"),
        "_codecs" => name == "encode",
        "builtins" | "__builtin__" => matches!(name, "set" | "frozenset" | "slice" | "range"),
        _ => false,
    }
}

fn damaged(problem: impl Into<String>) -> Problem {
    Problem::Damaged(problem.into())
}

/// Reads the archive that PyTorch has written since 1.6.
pub(crate) fn read_archive(file: File) -> Result<Weights, Problem> {
    let largest = file.metadata()?.len();
    let unreadable =
        |e: zip::result::ZipError| damaged(format!("the .pth file is damaged or cut short ({e})"));
    let mut archive = ZipArchive::new(file).map_err(unreadable)?;
    let prefix = archive
        .file_names()
        .filter_map(Result::ok)
        .find_map(|name| Some(name.strip_suffix("data.pkl")?.to_owned()))
        .ok_or_else(|| {
            damaged("a zip archive without a data.pkl, so it is not a PyTorch .pth file")
        })?;
    if archive.by_name(&format!("{prefix}constants.pkl")).is_ok() {
        return Err(damaged(
            "a TorchScript program: save its weights with `torch.save(model.state_dict(), FILE)`",
        ));
    }
    let mut read = |name: &str, max: u64| -> Result<Vec<u8>, Problem> {
        let file = archive
            .by_name(&format!("{prefix}{name}"))
            .map_err(unreadable)?;
        let mut bytes = Vec::new();
        // The lengths in an archive may be wrong: never read more than the limit.
        file.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(damaged(format!("{name} in it is larger than {max} bytes")));
        }
        Ok(bytes)
    };
    let big_endian = read("byteorder", 16).is_ok_and(|order| order.starts_with(b"big"));
    if big_endian {
        return Err(damaged(
            "written on a big-endian machine, which is not supported",
        ));
    }
    let bytes = read("data.pkl", MAX_PICKLE_BYTES)?;
    let (pickle, _) = Pickle::parse(&bytes, allow)?;
    let mut found = Found::in_pickle(&pickle)?;
    let mut weights = Weights {
        numbers: std::mem::take(&mut found.numbers),
        ..Weights::default()
    };
    // A storage that several tensors share, such as tied weights, is read once.
    let mut storages: HashMap<String, Vec<u8>> = HashMap::new();
    let mut users: HashMap<String, usize> = HashMap::new();
    for tensor in &found.tensors {
        *users.entry(tensor.storage.key.clone()).or_default() += 1;
    }
    let mut allowance = ElementBudget::of(largest);
    for tensor in found.tensors {
        allowance.take(&tensor)?;
        let key = tensor.storage.key.clone();
        let storage = match storages.remove(&key) {
            Some(storage) => storage,
            None => read(&format!("data/{key}"), largest)?,
        };
        weights.tensors.push(tensor.read(&storage)?);
        let users = users.entry(key.clone()).or_default();
        *users = users.saturating_sub(1);
        if *users > 0 {
            storages.insert(key, storage);
        }
    }
    Ok(weights)
}

/// The magic number at the start of a file written before 1.6, in little-endian order.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Reads a file that PyTorch wrote before 1.6.
///
/// # Errors
/// If it is damaged, or its pickle imports something that weights do not need.
pub fn read_legacy(bytes: &[u8]) -> Result<Weights, Problem> {
    let mut rest = bytes;
    let mut next = || -> Result<Pickle<'_>, Problem> {
        let (pickle, length) = Pickle::parse(rest, allow)?;
        rest = &rest[length..];
        Ok(pickle)
    };
    let magic = next()?;
    if !matches!(magic.get(magic.root()), Value::Long(number) if **number == LEGACY_MAGIC) {
        return Err(damaged(
            "a pickle that `torch.save` did not write: save weights with `torch.save(model.state_dict(), FILE)`",
        ));
    }
    let _protocol = next()?;
    let system = next()?;
    if let Some(little) = system.field(system.root(), "little_endian")
        && system.get(little) == &Value::Bool(false)
    {
        return Err(damaged(
            "written on a big-endian machine, which is not supported",
        ));
    }
    let pickle = next()?;
    let keys = next()?;
    let found = Found::in_pickle(&pickle)?;
    let sizes: HashMap<&str, usize> = found
        .tensors
        .iter()
        .map(|tensor| (tensor.storage.key.as_str(), tensor.storage.number.bytes()))
        .collect();
    let mut storages = HashMap::new();
    for key in keys.sequence(keys.root()).unwrap_or(&[]) {
        let key = keys
            .text(*key)
            .ok_or_else(|| damaged("a storage's key is not a string"))?;
        let (count, after) = rest
            .split_first_chunk::<8>()
            .ok_or_else(|| damaged("the .pth file is cut short: its storages are missing"))?;
        let size = *sizes.get(key).ok_or_else(|| {
            damaged("it contains a storage that no tensor uses, so the storage's size is unknown")
        })?;
        let length = usize::try_from(u64::from_le_bytes(*count))
            .ok()
            .and_then(|count| count.checked_mul(size))
            .filter(|length| *length <= after.len())
            .ok_or_else(|| {
                damaged(format!(
                    "the .pth file is cut short: storage {key} is incomplete"
                ))
            })?;
        let (storage, after) = after.split_at(length);
        storages.insert(key.to_owned(), storage);
        rest = after;
    }
    let mut allowance = ElementBudget::of(bytes.len() as u64);
    let tensors = found.tensors.into_iter().map(|tensor| {
        allowance.take(&tensor)?;
        let storage = storages
            .get(&tensor.storage.key)
            .ok_or_else(|| damaged(format!("{}: its storage is missing", tensor.name)))?;
        tensor.read(storage)
    });
    Ok(Weights {
        tensors: tensors.collect::<Result<_, _>>()?,
        numbers: found.numbers,
    })
}

/// How many elements all tensors of a file may still have: tied weights use a storage twice, but a file that uses one
/// ten thousand times would fill the memory.
struct ElementBudget(u64);

impl ElementBudget {
    /// The allowance for a file of `bytes` bytes: two elements per byte.
    fn of(bytes: u64) -> Self {
        Self(bytes.saturating_mul(2))
    }

    fn take(&mut self, tensor: &TensorView) -> Result<(), Problem> {
        let count = tensor
            .shape
            .iter()
            .try_fold(1u64, |product, extent| product.checked_mul(*extent as u64));
        let left = count.and_then(|count| self.0.checked_sub(count));
        self.0 = left.ok_or_else(|| {
            damaged(
                "its tensors have more elements than a file of this size can hold: it was refused",
            )
        })?;
        Ok(())
    }
}

/// The storage of a tensor: its key in the file, and its data type.
struct StorageName {
    key: String,
    number: Number,
}

/// A tensor in a pickle: a view of a storage, with offset and strides in elements.
struct TensorView {
    name: String,
    storage: StorageName,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl TensorView {
    fn read(self, storage: &[u8]) -> Result<NamedTensor, Problem> {
        let Self {
            name,
            storage: StorageName { number, .. },
            offset,
            shape,
            strides,
        } = self;
        let stored = storage.len() / number.bytes();
        let cut = || {
            damaged(format!(
                "{name}: its storage is cut short, or its shape is wrong"
            ))
        };
        let count = shape
            .iter()
            .try_fold(1usize, |product, extent| product.checked_mul(*extent))
            // With a stride of 0, a small storage could become a tensor of any size.
            .filter(|count| *count <= stored)
            .ok_or_else(cut)?;
        if count > 0 {
            let last = shape
                .iter()
                .zip(&strides)
                .try_fold(offset, |last, (extent, stride)| {
                    last.checked_add((extent - 1).checked_mul(*stride)?)
                });
            if last.is_none_or(|last| last >= stored) {
                return Err(cut());
            }
        }
        let mut values = Vec::with_capacity(count);
        let mut index = vec![0; shape.len()];
        for _ in 0..count {
            let at: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
            let at = (offset + at) * number.bytes();
            values.push(number.read(&storage[at..at + number.bytes()]));
            for (i, extent) in index.iter_mut().zip(&shape).rev() {
                *i += 1;
                if *i < *extent {
                    break;
                }
                *i = 0;
            }
        }
        Ok(NamedTensor {
            name,
            shape,
            values,
        })
    }
}

/// The tensors and the scalars in a pickle's dictionaries.
#[derive(Default)]
struct Found {
    tensors: Vec<TensorView>,
    numbers: Vec<(String, f64)>,
}

impl Found {
    fn in_pickle(pickle: &Pickle<'_>) -> Result<Self, Problem> {
        let mut found = Self::default();
        // A hostile file may refer to one dictionary many times, so the number of visits is limited: four per value.
        let mut left = 4 * pickle.count();
        found.walk(pickle, pickle.root(), String::new(), MAX_DEPTH, &mut left)?;
        if found.tensors.is_empty() {
            return Err(damaged(
                "there are no tensors in it: save weights with `torch.save(model.state_dict(), FILE)`",
            ));
        }
        Ok(found)
    }

    fn walk(
        &mut self,
        pickle: &Pickle<'_>,
        id: Id,
        path: String,
        depth: usize,
        left: &mut usize,
    ) -> Result<(), Problem> {
        let Some(rest) = left.checked_sub(1) else {
            return Err(damaged("its dictionaries refer to each other without end"));
        };
        *left = rest;
        // A name is copied for every value below it, so a long one would fill the memory.
        if path.len() > MAX_NAME_LENGTH {
            return Err(damaged("a name in it is longer than 1000 bytes"));
        }
        let below = |name: &str| {
            if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            }
        };
        match pickle.get(id) {
            Value::Integer(number) => self.numbers.push((path, *number as f64)),
            Value::Float(number) => self.numbers.push((path, *number)),
            Value::Sequence(elements) if depth > 0 => {
                for (index, element) in elements.iter().enumerate() {
                    self.walk(pickle, *element, below(&index.to_string()), depth - 1, left)?;
                }
            }
            _ => {
                if let Some(tensor) = tensor(pickle, id, &path)? {
                    self.tensors.push(tensor);
                } else if let Some(items) = pickle.dictionary(id)
                    && depth > 0
                {
                    for (key, value) in items {
                        let key = match pickle.get(*key) {
                            Value::Integer(number) => number.to_string(),
                            _ => match pickle.text(*key) {
                                Some(text) => text.to_owned(),
                                None => continue,
                            },
                        };
                        self.walk(pickle, *value, below(&key), depth - 1, left)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The tensor that a value describes; `None` if it is not a tensor.
fn tensor(pickle: &Pickle<'_>, id: Id, name: &str) -> Result<Option<TensorView>, Problem> {
    let Some((module, function, arguments, _)) = pickle.call(id) else {
        return Ok(None);
    };
    match (module, function) {
        ("torch._utils", "_rebuild_parameter") => match arguments.first() {
            // One level only: PyTorch never nests a parameter in a parameter.
            Some(inner)
                if pickle
                    .call(*inner)
                    .is_some_and(|c| c.1 != "_rebuild_parameter") =>
            {
                tensor(pickle, *inner, name)
            }
            _ => Ok(None),
        },
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => {
            let view = || -> Option<TensorView> {
                let [storage, offset, shape, strides, ..] = arguments else {
                    return None;
                };
                let size = |id: &Id| usize::try_from(pickle.integer(*id)?).ok();
                let sizes = |id: Id| {
                    extents(pickle, id)?
                        .iter()
                        .map(size)
                        .collect::<Option<Vec<_>>>()
                };
                let view = TensorView {
                    name: name.to_owned(),
                    storage: storage_name(pickle, *storage)?,
                    offset: size(offset)?,
                    shape: sizes(*shape)?,
                    strides: sizes(*strides)?,
                };
                (view.shape.len() == view.strides.len()).then_some(view)
            };
            let view = view().ok_or_else(|| {
                damaged(format!(
                    "{name}: this kind of tensor is not supported (sparse, quantized or complex?)"
                ))
            })?;
            Ok(Some(view))
        }
        _ => Ok(None),
    }
}

/// A shape: a tuple, or a `torch.Size` of one.
fn extents<'p>(pickle: &'p Pickle<'_>, id: Id) -> Option<&'p [Id]> {
    match pickle.call(id) {
        Some(("torch", "Size", [inner], _)) => pickle.sequence(*inner),
        _ => pickle.sequence(id),
    }
}

/// Parses a persistent ID `('storage', torch.FloatStorage, KEY, LOCATION, COUNT)`.
fn storage_name(pickle: &Pickle<'_>, id: Id) -> Option<StorageName> {
    let Value::Persistent(reference) = pickle.get(id) else {
        return None;
    };
    let [_, kind, key, ..] = pickle.sequence(*reference)? else {
        return None;
    };
    let Value::Global(_, kind) = pickle.get(*kind) else {
        return None;
    };
    let number = match &**kind {
        "DoubleStorage" => Number::F64,
        "FloatStorage" => Number::F32,
        "HalfStorage" => Number::F16,
        "BFloat16Storage" => Number::BF16,
        "LongStorage" => Number::I64,
        "IntStorage" => Number::I32,
        "ShortStorage" => Number::I16,
        "CharStorage" => Number::I8,
        "ByteStorage" => Number::U8,
        "BoolStorage" => Number::Bool,
        _ => return None,
    };
    let key = pickle.text(*key)?;
    // The key becomes part of a file name in the archive.
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain.then(|| StorageName {
        key: key.to_owned(),
        number,
    })
}
