//! How precisely products take their operands: mixed precision, as Micikevicius et al. 2018 (arXiv 1710.03740), where only
//! what is multiplied is narrowed. Parameters, activations, gradients and sums stay 32 bits wide. Gradients are smaller
//! than 16 bits resolve: the trainer scales the loss, and an operand that is too large makes its products infinite.

use std::cell::Cell;

use burn::tensor::{DType, Device};
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use serde::{Deserialize, Serialize};

use crate::device::runs_on_cpu;

/// How wide the numbers are that products multiply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, and sums of 32; on adapters that know 16-bit floats.
    F16,
}

thread_local! {
    static ASKED: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// Runs `task` with products of that precision, on this thread.
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
    /// Whether `device` has it.
    pub fn is_known_to(self, device: &Device) -> bool {
        match self {
            Self::F32 => true,
            Self::F16 => !runs_on_cpu(device) && device.supports_dtype(DType::F16),
        }
    }
}

/// Whether products are to narrow their operands.
pub(super) fn narrow(client: &Client) -> bool {
    let f16 = ElemType::Float(FloatKind::F16);
    ASKED.get() == Precision::F16 && client.properties().supports_type(f16)
}
