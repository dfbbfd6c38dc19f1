//! Tensors whose channels are neighbours in memory (NHWC), on the CPU.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use super::buffer::{self, Buffer};
use crate::ops::nhwc::Extent;
use crate::ops::runtime::cpu::{Shared, parallel_map};

/// The CPU.
#[derive(Debug, Clone, Copy)]
pub struct Cpu;

impl Cpu {
    /// Begins a pass through the networks.
    pub fn begin_pass() -> Self {
        buffer::begin_pass();
        Self
    }
}

/// A batch of images `[images, height, width, channels]`. Clones share their values, as on a GPU.
#[derive(Debug, Clone)]
pub struct Images {
    values: Values,
    /// The shape.
    pub extent: Extent,
}

/// Values that clones share.
pub type Values = Rc<RefCell<Buffer>>;

impl Images {
    /// Images of these values.
    pub fn new(values: Buffer, extent: Extent) -> Self {
        assert_eq!(values.len(), extent.pixels() * extent.channels);
        Self {
            values: Rc::new(RefCell::new(values)),
            extent,
        }
    }

    /// The values.
    pub fn values(&self) -> Ref<'_, Buffer> {
        self.values.borrow()
    }

    /// Changes the values.
    pub fn update(&self, change: impl FnOnce(&mut [f32])) {
        change(&mut self.values.borrow_mut());
    }

    /// Values of one image.
    pub fn floats(&self) -> usize {
        self.extent.height * self.extent.width * self.extent.channels
    }
}

/// What batch normalization computes from a batch.
#[derive(Debug, Clone)]
pub struct Normalization {
    /// For each view.
    pub views: Rc<Vec<Numbers>>,
}

/// The numbers of a view, `[channels]` each. The normalized value is `scale x + shift`.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// `gamma / standard deviation`.
    pub scale: Vec<f32>,
    /// `beta - scale mean`.
    pub shift: Vec<f32>,
    /// The mean.
    pub mean: Vec<f32>,
    /// The inverse of the standard deviation.
    pub inverse: Vec<f64>,
}

/// Two sums over the pixels of each view for each channel: for a normalization, the mean and the sum of the squared differences
/// from it; for its gradient, the sum of the gradients and that of the gradients times `x - mean`.
#[derive(Debug)]
pub struct Sums {
    /// For each view, both sums of each channel.
    pub views: Vec<[Vec<f64>; 2]>,
}

/// How the images of a batch are shared out: every view in groups of a few neighbouring images. They depend on shapes alone, so
/// that results have the same bits on any number of threads.
#[derive(Debug, Clone, Copy)]
pub struct Groups {
    views: usize,
    view_images: usize,
    /// Images in a group; the last one of a view may have fewer.
    pub size: usize,
}

/// Floats that a group of images takes: a quarter of a common core's second-level cache of 512 KiB.
const GROUP_FLOATS: usize = 32 * 1024;

/// Pixels of a group that are worth reading a weight for.
const GROUP_PIXELS: usize = 32;

/// A group of images.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The view that it belongs to.
    pub view: usize,
    /// Its first image.
    pub first: usize,
    /// The number of its images.
    pub count: usize,
}

impl Groups {
    /// Groups of a batch with so many images, of so many floats and pixels each.
    pub fn new(images: usize, views: usize, floats: usize, pixels: usize) -> Self {
        assert_eq!(images % views, 0, "views have equally many images");
        let view_images = images / views;
        let size = (GROUP_FLOATS / floats.max(1)).max(GROUP_PIXELS.div_ceil(pixels.max(1)));
        let count = view_images.div_ceil(size.min(view_images.max(1))).max(1);
        Self {
            views,
            view_images,
            size: view_images.div_ceil(count).max(1),
        }
    }

    /// Groups of images that an operation only passes through.
    pub fn of(extent: &Extent, views: usize) -> Self {
        let pixels = extent.height * extent.width;
        Self::new(extent.images, views, pixels * extent.channels, pixels)
    }

    fn per_view(&self) -> usize {
        self.view_images.div_ceil(self.size)
    }

    /// The number of groups.
    pub fn count(&self) -> usize {
        self.views * self.per_view()
    }

    /// A group by its number.
    pub fn get(&self, number: usize) -> Group {
        let view = number / self.per_view();
        let first = number % self.per_view() * self.size;
        Group {
            view,
            first: view * self.view_images + first,
            count: self.size.min(self.view_images - first),
        }
    }

    /// Runs `task` for every group, in parallel, and returns the results in order.
    pub fn map<T: Send>(&self, task: impl Fn(Group) -> T + Sync + Send) -> Vec<T> {
        parallel_map(self.count(), |number| task(self.get(number)))
    }

    /// Like [`Self::map`], with each group's part of `values`, which has `floats` per image.
    pub fn map_parts<T: Send>(
        &self,
        values: &mut [f32],
        floats: usize,
        task: impl Fn(Group, &mut [f32]) -> T + Sync + Send,
    ) -> Vec<T> {
        let shared = Shared::new(values);
        self.map(|group| {
            // SAFETY: every image belongs to one group, and every group to one task.
            let part = unsafe { shared.part(group.first * floats, group.count * floats) };
            task(group, part)
        })
    }

    /// Adds up two sums per channel of all groups, `[2, channels]` each, for each view in order.
    pub fn sum(&self, sums: &[[Vec<f32>; 2]]) -> Sums {
        let of_view = |of_groups: &[[Vec<f32>; 2]]| {
            [0, 1].map(|which| {
                let mut total = vec![0.0; of_groups.first().map_or(0, |sums| sums[which].len())];
                for sums in of_groups {
                    for (total, sum) in total.iter_mut().zip(&sums[which]) {
                        *total += f64::from(*sum);
                    }
                }
                total
            })
        };
        Sums {
            views: sums.chunks(self.per_view().max(1)).map(of_view).collect(),
        }
    }
}

impl Group {
    /// The group's part of values with `floats` per image.
    pub fn of<'a>(&self, values: &'a [f32], floats: usize) -> &'a [f32] {
        &values[self.first * floats..][..self.count * floats]
    }
}
