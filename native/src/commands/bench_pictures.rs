//! The pictures that `barlow bench` measures steps on.

use anyhow::{Result, anyhow, bail};
use barlow_core::config::Config;
use barlow_core::data::Pictures;
use barlow_core::data::emoji::{SIDE, emoji};
use barlow_core::device::DeviceLimits;

use crate::data::noise;

/// Maximum bytes of a tensor on the CPU, which has no limit of its own: a batch that needs more is a mistake.
const MOST_BYTES: u64 = 4 << 30;

/// `count` pictures: the emoji if their size and number suffice, else noise somewhat larger than the views. Fails
/// if the tensors of such a batch do not fit on the device.
pub fn pictures_for(
    config: &Config,
    count: usize,
    limits: Option<DeviceLimits>,
) -> Result<Pictures> {
    let side = config.view_size * 8 / 7;
    match &limits {
        Some(limits) => config
            .check_device(limits, 1, (side, side), 1)
            .map_err(|error| anyhow!("{error} (--device cpu)"))?,
        None => {
            let limits = DeviceLimits {
                binding_bytes: MOST_BYTES,
            };
            if config.check_device(&limits, 1, (side, side), 1).is_err() {
                bail!(
                    "a batch of {} would need tensors of more than {} GiB on the CPU: use a smaller --batch",
                    config.batch,
                    MOST_BYTES >> 30
                );
            }
        }
    }
    if config.view_size == SIDE && count <= emoji().noto.count() {
        return Ok(emoji().noto.clone());
    }
    Ok(noise(count, side))
}
