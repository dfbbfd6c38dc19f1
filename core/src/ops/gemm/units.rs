//! Matrix units (cooperative matrices): whether a device has them, and whether they compute correctly.

use super::images::Gpu;

/// The matrix units that products use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Units {
    /// Rows, columns and depth of a unit: 16 or 8.
    pub size: usize,
    /// Threads of a subgroup.
    pub subgroup: usize,
}

impl Units {
    /// The matrix units of a device, if it has any that compute correctly.
    pub fn of(_gpu: &Gpu) -> Option<Self> {
        None
    }
}
