//! Parses arbitrary bytes as a pickle, with every name allowed.
#![no_main]

use barlow_formats::pickle::Pickle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((pickle, length)) = Pickle::parse(bytes, |_, _| true) {
        assert!(length <= bytes.len());
        assert!(pickle.count() <= bytes.len());
        pickle.field(pickle.root(), "data");
        pickle.call(pickle.root());
    }
});
