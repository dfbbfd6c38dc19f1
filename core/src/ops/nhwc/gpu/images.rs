//! Tensors whose channels are neighbours in memory (NHWC), on a wgpu device.

use burn::backend::wgpu::CubeTensor;
use burn::tensor::{DType, Shape};
use cubecl::Device as CubeDevice;
use cubecl::client::Client;
use cubecl::server::Handle;

use crate::device::Units;
use crate::ops::nhwc::{Extent, Storage};
use crate::ops::runtime::launch::{self, Kernel, kernel};

impl Storage {
    /// `kernel` with its type `alias` of this width.
    pub fn set(self, kernel: Kernel, alias: &'static str) -> Kernel {
        match self {
            Self::F32 => kernel,
            Self::F16 => kernel.narrow(alias),
        }
    }
}

impl Extent {
    /// Quads of channels: in memory, channels are padded with zeros to a multiple of 4.
    pub fn quads(&self) -> usize {
        self.channels.div_ceil(4)
    }

    /// Numbers in memory.
    pub fn numbers(&self) -> usize {
        self.pixels() * 4 * self.quads()
    }
}

/// A wgpu device, as the kernels for these tensors use it.
#[derive(Clone)]
pub struct Gpu {
    /// The client that launches kernels.
    pub client: Client,
    /// The device of new tensors.
    pub device: CubeDevice,
    /// Whether the device is software.
    pub simulated: bool,
    /// The smallest number of threads that compute in step: where they are simulated, the numbers of a vector.
    pub lanes: u32,
    /// The width of activations, their gradients, and the weights that products multiply.
    pub storage: Storage,
    /// The matrix units that products use.
    pub units: Option<Units>,
}

impl Gpu {
    /// Uninitialized memory for images.
    pub fn images(&self, extent: Extent, storage: Storage) -> Images {
        Images {
            handle: self.client.empty(extent.numbers() * storage.bytes()),
            extent,
            storage,
        }
    }

    /// Uninitialized memory for 32-bit floats.
    pub fn floats(&self, count: usize) -> Handle {
        self.client.empty(count * size_of::<f32>())
    }

    /// Whether products are computed by matrix units.
    pub fn multiplies_by_units(&self) -> bool {
        self.units.is_some() && self.storage == Storage::F16
    }

    /// A tensor of 32-bit floats in a buffer.
    pub fn tensor(&self, handle: Handle, shape: impl Into<Shape>) -> CubeTensor {
        let (client, device) = (self.client.clone(), self.device.clone());
        CubeTensor::new_contiguous(client, device, shape.into(), handle, DType::F32)
    }
}

impl Gpu {
    /// Images from a tensor `[n, c, h, w]` of 32-bit floats in row-major order.
    pub fn channels_last(
        &self,
        planes: &Handle,
        [images, channels, height, width]: [usize; 4],
    ) -> Images {
        let extent = Extent {
            images,
            height,
            width,
            channels,
        };
        let images = self.images(extent, self.storage);
        let count = extent.pixels() * extent.quads();
        let kernel = kernel!("nhwc_from_planes")
            .set("CHANNELS", extent.channels)
            .set("POSITIONS", extent.height * extent.width);
        self.of_values(kernel).launch(
            &self.client,
            launch::workgroups_for(count),
            &[planes, &images.handle],
            &[count.into(), f32::INFINITY.into()],
        );
        images
    }

    /// `kernel` with activations of this device's width.
    pub fn of_values(&self, kernel: Kernel) -> Kernel {
        let kernel = kernel.choose("NARROW", self.storage == Storage::F16);
        self.storage.set(kernel, "Value")
    }
}

/// A batch of images `[images, height, width, channels]` on a wgpu device.
#[derive(Debug, Clone)]
pub struct Images {
    /// The buffer.
    pub handle: Handle,
    /// The shape.
    pub extent: Extent,
    /// The width of a number.
    pub storage: Storage,
}

impl Images {
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.extent.numbers() * self.storage.bytes()
    }
}

/// What batch normalization computes from a batch, for each channel of each view.
#[derive(Debug, Clone)]
pub struct Normalization {
    /// `[views, 4, channels]`: scale, shift, mean, and the inverse of the standard deviation; channels are padded to a
    /// multiple of 4. The normalized value is `scale x + shift`.
    pub numbers: Handle,
    /// The number of views.
    pub views: usize,
}

/// Sums over the columns of every tile of a product, `[tiles, 2, columns]`.
#[derive(Debug, Clone)]
pub struct Sums {
    /// The buffer.
    pub handle: Handle,
    /// Tiles per view.
    pub tiles: usize,
    /// Rows of a tile; the last one of a view may have fewer.
    pub tile_rows: usize,
}

impl Sums {
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.handle.size_in_used() as usize
    }
}
