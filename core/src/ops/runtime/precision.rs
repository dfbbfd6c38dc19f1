//! Mixed precision (Micikevicius et al. 2018, arXiv 1710.03740): the operands of matrix products, the networks' activations
//! and the gradients with respect to them have 16 bits. Parameters, their gradients, statistics, sums and the optimizer's
//! state stay 32 bits wide. Gradients can be smaller than 16 bits resolve, so the trainer scales the loss; a number that is
//! too large for 16 bits becomes infinite.

use std::cell::Cell;

use burn::tensor::{DType, Device};
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use serde::{Deserialize, Serialize};

use super::dry_run;
use crate::device::runs_on_cpu;

/// The width of activations and of the numbers that matrix products multiply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, with 32-bit sums; on adapters that support 16-bit floats.
    F16,
}

thread_local! {
    static ASKED: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// Runs `task` with matrix products of that precision, on this thread.
pub fn with_precision<T>(precision: Precision, task: impl FnOnce() -> T) -> T {
    struct Restore(Precision);
    impl Drop for Restore {
        fn drop(&mut self) {
            ASKED.set(self.0);
        }
    }
    let _restore = Restore(ASKED.replace(precision));
    task()
}

impl Precision {
    /// Bytes of an activation.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Whether `device` supports this precision.
    pub fn is_supported_by(self, device: &Device) -> bool {
        match self {
            Self::F32 => true,
            Self::F16 => !runs_on_cpu(device) && device.supports_dtype(DType::F16),
        }
    }
}

/// Whether products should convert their operands to 16 bits: if that is asked for and the adapter supports it.
pub fn narrow(client: &Client) -> bool {
    let f16 = ElemType::Float(FloatKind::F16);
    let is_supported = dry_run::assumed().is_some() || client.properties().supports_type(f16);
    ASKED.get() == Precision::F16 && is_supported
}
