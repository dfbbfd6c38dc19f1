//! Reads `.safetensors` files: a header in JSON, and the tensors' bytes.

use ::safetensors::{Dtype, SafeTensors};

use crate::weights::{NamedTensor, Number, Problem, Weights};

/// Parses the content of a `.safetensors` file.
///
/// # Errors
/// If it is damaged, for example if its header states a wrong length.
pub fn read_safetensors(bytes: &[u8]) -> Result<Weights, Problem> {
    let damaged = |e: ::safetensors::SafeTensorError| {
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
}
