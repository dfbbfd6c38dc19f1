//! Reads named tensors from files: PyTorch's `.pth`, in both of its layouts, and `.safetensors`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::pickle::PickleError;
use crate::torch;

/// The contents of a weights file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights {
    /// The tensors, in the file's order. A name is the path through the file's dictionaries, joined by dots.
    pub tensors: Vec<NamedTensor>,
    /// Scalars beside the tensors, such as an epoch or a learning rate.
    pub numbers: Vec<(String, f64)>,
}

/// A tensor, converted to 32-bit floats.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its elements, in row-major order.
    pub values: Vec<f32>,
}

/// Why a file of weights cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", .path.display())]
pub struct WeightsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file of weights.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// Its pickle cannot be used.
    #[error("its pickle cannot be used: {0}")]
    Pickle(#[from] PickleError),
    /// It is not a weights file, or it is damaged or cut short.
    #[error("{0}")]
    Damaged(String),
}

/// The data type of a stored element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Number {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Converts one element from its little-endian `bytes`, which must be [`Self::bytes`] long.
    pub(crate) fn read(self, bytes: &[u8]) -> f32 {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        let [a, b, c, d, ..] = eight;
        match self {
            Self::F64 => f64::from_le_bytes(eight) as f32,
            Self::F32 => f32::from_le_bytes([a, b, c, d]),
            Self::F16 => f16::from_le_bytes([a, b]).to_f32(),
            Self::BF16 => bf16::from_le_bytes([a, b]).to_f32(),
            Self::I64 => i64::from_le_bytes(eight) as f32,
            Self::I32 => i32::from_le_bytes([a, b, c, d]) as f32,
            Self::I16 => f32::from(i16::from_le_bytes([a, b])),
            Self::I8 => f32::from(a as i8),
            Self::U8 | Self::Bool => f32::from(a),
        }
    }
}

impl Weights {
    /// Reads a `.pth` or a `.safetensors` file; its content decides which it is.
    ///
    /// # Errors
    /// If it is neither, is damaged, or its pickle imports something that weights do not need.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let read = || -> Result<Self, Problem> {
            let mut file = File::open(path)?;
            let mut start = [0; 10];
            let count = read_up_to(&mut file, &mut start)?;
            let start = &start[..count];
            if start.starts_with(b"PK\x03\x04") {
                return torch::read_archive(file);
            }
            // A pickle (of protocol 2, unless the caller chose another) from `torch.save` before 1.6.
            if start.starts_with(b"\x80") && start.get(1).is_some_and(|protocol| *protocol <= 5) {
                let bytes = std::fs::read(path)?;
                return torch::read_legacy(&bytes);
            }
            // A .safetensors file: the header's length in eight bytes, then JSON.
            if start.get(8) == Some(&b'{') {
                let bytes = std::fs::read(path)?;
                return read_safetensors(&bytes);
            }
            Err(Problem::Damaged(
                "neither a PyTorch .pth nor a .safetensors file: its first bytes match neither format".into(),
            ))
        };
        read().map_err(|problem| WeightsError {
            path: path.to_owned(),
            problem,
        })
    }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read(&mut buffer[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

/// Parses the content of a `.safetensors` file.
///
/// # Errors
/// If it is damaged, for example if its header states a wrong length.
pub fn read_safetensors(bytes: &[u8]) -> Result<Weights, Problem> {
    let damaged = |e: safetensors::SafeTensorError| {
        Problem::Damaged(format!(
            "the .safetensors file is damaged or cut short ({e})"
        ))
    };
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut tensors: Vec<_> = file.iter().collect();
    // Sort by position in the file, which is the order in which they were saved.
    tensors.sort_by_key(|(_, view)| view.data().as_ptr());
    let tensors = tensors.into_iter().filter_map(|(name, view)| {
        let number = match view.dtype() {
            Dtype::F64 => Number::F64,
            Dtype::F32 => Number::F32,
            Dtype::F16 => Number::F16,
            Dtype::BF16 => Number::BF16,
            Dtype::I64 => Number::I64,
            Dtype::I32 => Number::I32,
            Dtype::I16 => Number::I16,
            Dtype::I8 => Number::I8,
            Dtype::U8 => Number::U8,
            Dtype::BOOL => Number::Bool,
            // Quantized numbers mean nothing without their scales.
            _ => return None,
        };
        let values = view.data().chunks_exact(number.bytes());
        Some(NamedTensor {
            name: name.to_owned(),
            shape: view.shape().to_vec(),
            values: values.map(|bytes| number.read(bytes)).collect(),
        })
    });
    Ok(Weights {
        tensors: tensors.collect(),
        numbers: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_lies_is_refused() {
        let header = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let file = |length: u64, data: &[u8]| [&length.to_le_bytes()[..], header, data].concat();
        let whole = file(header.len() as u64, &[0, 0, 128, 63, 0, 0, 0, 64]);
        let weights = read_safetensors(&whole).unwrap();
        assert_eq!(weights.tensors[0].values, [1.0, 2.0]);
        for lie in [
            file(u64::MAX, &[0; 8]),
            file(1 << 40, &[0; 8]),
            file(header.len() as u64 + 1, &[0; 8]),
            file(header.len() as u64 - 1, &[0; 8]),
            file(header.len() as u64, &[0; 4]),
        ] {
            let error = read_safetensors(&lie).unwrap_err();
            assert!(error.to_string().contains("damaged"), "{error}");
        }
    }

    #[test]
    fn other_files_are_rejected() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x.pth");
        std::fs::write(&path, "hello").unwrap();
        let error = Weights::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("x.pth") && error.contains("neither"),
            "{error}"
        );
    }
}
