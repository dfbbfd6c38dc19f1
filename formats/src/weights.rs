//! Named tensors, as files of weights hold them.

use std::path::PathBuf;

use half::{bf16, f16};

use crate::pickle::PickleError;

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
