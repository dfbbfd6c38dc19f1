//! What `torch.save` writes: a pickle of dictionaries whose tensors name storages, and the storages' bytes beside it.
//!
//! Since PyTorch 1.6 that is a zip archive of uncompressed files, `NAME/data.pkl` and `NAME/data/KEY`
//! (`torch/serialization.py`, `_save`); before, five pickles and the storages one after the other (`_legacy_save`).

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;

use zip::ZipArchive;

use crate::pickle::{Id, Pickle, Value};
use crate::weights::{NamedTensor, Number, Problem, Weights};

/// A checkpoint's pickle names tensors; it is a few megabytes where there are many.
const LARGEST_PICKLE: u64 = 64 << 20;

/// The longest name of a tensor.
const LONGEST_NAME: usize = 1000;

/// Dictionaries in dictionaries, at most.
const DEEPEST: usize = 8;

/// What weights refer to. All of it is kept as a name, and none of it is run.
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
    let unreadable = |e: zip::result::ZipError| {
        damaged(format!("a damaged .pth, or one that is cut short ({e})"))
    };
    let mut archive = ZipArchive::new(file).map_err(unreadable)?;
    let prefix = archive
        .file_names()
        .filter_map(Result::ok)
        .find_map(|name| Some(name.strip_suffix("data.pkl")?.to_owned()))
        .ok_or_else(|| {
            damaged("a zip archive without a data.pkl, so that it is no .pth of PyTorch's")
        })?;
    if archive.by_name(&format!("{prefix}constants.pkl")).is_ok() {
        return Err(damaged(
            "a TorchScript program: save its weights with `torch.save(model.state_dict(), FILE)`",
        ));
    }
    let mut read = |name: &str, most: u64| -> Result<Vec<u8>, Problem> {
        let file = archive
            .by_name(&format!("{prefix}{name}"))
            .map_err(unreadable)?;
        let mut bytes = Vec::new();
        // Lengths in an archive may lie: no more than that is read.
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(damaged(format!("{name} in it is larger than {most} bytes")));
        }
        Ok(bytes)
    };
    let big_endian = read("byteorder", 16).is_ok_and(|order| order.starts_with(b"big"));
    if big_endian {
        return Err(damaged(
            "written on a big-endian machine, which is not supported",
        ));
    }
    let bytes = read("data.pkl", LARGEST_PICKLE)?;
    let (pickle, _) = Pickle::parse(&bytes, allow)?;
    let mut found = Found::in_pickle(&pickle)?;
    let mut weights = Weights {
        numbers: std::mem::take(&mut found.numbers),
        ..Weights::default()
    };
    // Of tensors that share a storage, as by tied weights, it is read once.
    let mut storages: HashMap<String, Vec<u8>> = HashMap::new();
    let mut users: HashMap<String, usize> = HashMap::new();
    for tensor in &found.tensors {
        *users.entry(tensor.storage.key.clone()).or_default() += 1;
    }
    let mut allowance = Allowance::of(largest);
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

/// The number that a file of before 1.6 begins with.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Reads what PyTorch wrote before 1.6.
///
/// # Errors
/// If it is damaged, or its pickle wants to import what no weights need.
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
            "a pickle, but none that `torch.save` wrote: save weights with `torch.save(model.state_dict(), FILE)`",
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
            .ok_or_else(|| damaged("a storage's key is no text"))?;
        let (count, after) = rest
            .split_first_chunk::<8>()
            .ok_or_else(|| damaged("a .pth that is cut short: its storages are missing"))?;
        let size = *sizes.get(key).ok_or_else(|| {
            damaged("it holds a storage that no tensor of it uses, whose size cannot be known")
        })?;
        let length = usize::try_from(u64::from_le_bytes(*count))
            .ok()
            .and_then(|count| count.checked_mul(size))
            .filter(|length| *length <= after.len())
            .ok_or_else(|| {
                damaged(format!(
                    "a .pth that is cut short: storage {key} is not whole"
                ))
            })?;
        let (storage, after) = after.split_at(length);
        storages.insert(key.to_owned(), storage);
        rest = after;
    }
    let mut allowance = Allowance::of(bytes.len() as u64);
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

/// How many numbers the tensors of a file may have, all together: tied weights name a storage twice, and a file that
/// names one ten thousand times is there to fill the memory.
struct Allowance(u64);

impl Allowance {
    /// For a file of that many bytes.
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
            damaged("its tensors are more numbers than the file has bytes for: it was refused")
        })?;
        Ok(())
    }
}

/// Where a tensor's numbers are.
struct StorageName {
    key: String,
    number: Number,
}

/// A tensor of a pickle: a view of a storage.
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
                "{name}: its storage is cut short, or its shape lies"
            ))
        };
        let count = shape
            .iter()
            .try_fold(1usize, |product, extent| product.checked_mul(*extent))
            // A stride of 0 makes a few numbers any number of them.
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

/// What a pickle's dictionaries hold.
#[derive(Default)]
struct Found {
    tensors: Vec<TensorView>,
    numbers: Vec<(String, f64)>,
}

impl Found {
    fn in_pickle(pickle: &Pickle<'_>) -> Result<Self, Problem> {
        let mut found = Self::default();
        // A dictionary that is there many times over may be looked into as often as a file has reason for.
        let mut left = 4 * pickle.count();
        found.walk(pickle, pickle.root(), String::new(), DEEPEST, &mut left)?;
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
        // Names are copied for each thing they name.
        if path.len() > LONGEST_NAME {
            return Err(damaged("it names a tensor by more than a thousand letters"));
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

/// The tensor that a value is, if it is one.
fn tensor(pickle: &Pickle<'_>, id: Id, name: &str) -> Result<Option<TensorView>, Problem> {
    let Some((module, function, arguments, _)) = pickle.call(id) else {
        return Ok(None);
    };
    match (module, function) {
        ("torch._utils", "_rebuild_parameter") => match arguments.first() {
            // One level only: a parameter of a parameter is nobody's.
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
                damaged(format!("{name}: a tensor of a kind that is not known here (sparse, quantized, complex?)"))
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

/// What a reference `('storage', torch.FloatStorage, KEY, PLACE, COUNT)` says.
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
    // It becomes part of a name in the archive.
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain.then(|| StorageName {
        key: key.to_owned(),
        number,
    })
}
