//! Reads arbitrary bytes as a weights file: a .pth in either layout, or a .safetensors.
#![no_main]

use barlow_formats::{Weights, read_legacy, read_safetensors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    _ = read_legacy(bytes);
    _ = read_safetensors(bytes);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    if let Ok(weights) = Weights::read(file.path()) {
        let mut count = 0;
        for tensor in weights.tensors {
            assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>());
            count += tensor.values.len();
        }
        assert!(count <= 2 * bytes.len());
    }
});
