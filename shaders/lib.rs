//! The WGSL compute kernels of Barlow, one file per kernel.
//!
//! What varies between a kernel's variants is a named `const` at the top of its file; [`expand`] sets their values. Most
//! files are plain WGSL; `gemm` and some others also have directives, for unrolled loops and parts that a variant leaves out.
//!
//! ```
//! let source = barlow_shaders::source("copy");
//! let text = barlow_shaders::expand(source, &[("THREADS", "64u".to_owned())]);
//! assert!(text.contains("const THREADS: u32 = 64u;"));
//! ```

#![no_std]

extern crate alloc;

mod template;

pub use template::{PARTS, expand};

/// Names the files: their sources, by the names of the kernels.
macro_rules! kernels {
    ($($name:literal),* $(,)?) => {
        /// The kernels: each one's name and WGSL source.
        pub const KERNELS: &[(&str, &str)] = &[$(($name, include_str!(concat!($name, ".wgsl")))),*];
    };
}

kernels! {
    "adamw",
    "add",
    "augment",
    "augment_large",
    "batch_norm_apply",
    "batch_norm_finish",
    "batch_norm_gradient",
    "batch_norm_gradient_finish",
    "batch_norm_gradient_sums",
    "batch_norm_statistics",
    "copy",
    "correlation_terms",
    "correlation_total",
    "count_not_finite",
    "gemm",
    "gemm_alone",
    "lars_norms",
    "lars_ratios",
    "lars_update",
    "max_pool",
    "max_pool_gradient",
    "mean_pool",
    "mean_pool_gradient",
    "multiply_add",
    "nhwc_from_planes",
    "nhwc_max_pool",
    "nhwc_max_pool_gradient",
    "nhwc_mean_pool",
    "nhwc_mean_pool_gradient",
    "nhwc_norm_apply",
    "nhwc_norm_finish",
    "nhwc_norm_gradient",
    "nhwc_norm_gradient_finish",
    "nhwc_norm_gradient_sums",
    "nhwc_norm_statistics",
    "pack",
    "pack_weight",
    "product",
    "sum_parts",
    "sum_weight_parts",
}

/// The source of the kernel of that name.
///
/// # Panics
/// If there is no such kernel. In a `const` that is an error of the compiler.
pub const fn source(name: &str) -> &'static str {
    let mut index = 0;
    while index < KERNELS.len() {
        if is_equal(KERNELS[index].0, name) {
            return KERNELS[index].1;
        }
        index += 1;
    }
    panic!("there is no kernel of that name")
}

/// `a == b`, which the standard library cannot do in a `const` yet.
const fn is_equal(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn every_file_is_named() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(folder).unwrap();
        let names = files.filter_map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".wgsl")
                .map(std::borrow::ToOwned::to_owned)
        });
        let mut names: std::vec::Vec<_> = names.collect();
        names.sort();
        let named: std::vec::Vec<_> = KERNELS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, named);
    }

    #[test]
    #[should_panic(expected = "there is no kernel of that name")]
    fn other_names_are_refused() {
        source("unheard_of");
    }
}
