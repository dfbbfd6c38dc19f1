//! Decodes a picture's bytes to planes of a given size.

use std::io::Cursor;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use barlow_core::augment::{Crop, Interpolation};
use barlow_core::data::{self, Size};
use barlow_formats::{Encoding, Item};
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder as _, ImageFormat, ImageReader, RgbImage};

use super::heic;

/// Maximum pixels of a picture: Pillow's limit, above which it takes a file for a decompression bomb.
const MAX_PIXELS: u64 = 178_956_970;

/// Pictures of more decoded bytes than this are decoded one at a time, so that a folder of very large ones fits in
/// memory.
const LARGE: u64 = 64 << 20;

/// Held while a large picture is decoded.
static LARGE_PICTURE: Mutex<()> = Mutex::new(());

/// Whether a file's extension is that of a picture.
pub fn is_picture(path: &Path) -> bool {
    let format = ImageFormat::from_path(path);
    // `reading_enabled` does not know of `avif-native` (image 0.25.10).
    let is_avif = cfg!(feature = "avif") && matches!(format, Ok(ImageFormat::Avif));
    heic::is_name(path) || is_avif || format.is_ok_and(|format| format.reading_enabled())
}

/// Reads a picture as three planes of `side` x `side` bytes: its shorter side is resized to `side`, and the middle
/// square is kept.
///
/// # Errors
/// If it cannot be read.
pub fn planes(item: &Item, side: usize) -> Result<Vec<u8>> {
    planes_with(item, side, Interpolation::Bicubic)
}

/// As [`planes`], with the given interpolation.
///
/// # Errors
/// If it cannot be read.
pub fn planes_with(item: &Item, side: usize, interpolation: Interpolation) -> Result<Vec<u8>> {
    let bytes = item.location.read()?;
    if let Encoding::Planes {
        height,
        width,
        channels: 3,
        column_major: false,
    } = item.encoding
        && (height, width) == (side, side)
    {
        return Ok(bytes);
    }
    // Held until the picture is resized.
    let _alone = is_large(&bytes, item.encoding)
        .then(|| LARGE_PICTURE.lock().unwrap_or_else(PoisonError::into_inner));
    middle_square(decoded(&bytes, item.encoding)?, side, filter(interpolation))
}

/// The views that were read from a picture.
pub struct Read {
    /// Three planes per view.
    pub views: Vec<Vec<u8>>,
    /// Rows and columns of the picture.
    pub size: Size,
    /// The picture's index, where it was requested by one.
    pub index: usize,
}

/// Cuts crops from the picture at its stored size, each resized to three planes of `size` x `size` bytes. `crops`
/// chooses them, given the picture's rows and columns, which are returned too.
///
/// # Errors
/// If it cannot be read.
pub fn views(
    item: &Item,
    size: usize,
    interpolation: Interpolation,
    crops: impl FnOnce(Size) -> Vec<Crop>,
) -> Result<Read> {
    let bytes = item.location.read()?;
    let _alone = is_large(&bytes, item.encoding)
        .then(|| LARGE_PICTURE.lock().unwrap_or_else(PoisonError::into_inner));
    let picture = DynamicImage::from(on_white(decoded(&bytes, item.encoding)?));
    let picture_size = (picture.height() as usize, picture.width() as usize);
    let mut resizer = Resizer::new();
    let views = crops(picture_size).into_iter().map(|crop| {
        let mut view = DynamicImage::new(size as u32, size as u32, picture.color());
        // Crop first, as torchvision does: a resizer that is given a crop box also reads the pixels around it.
        let [left, top, width, height] =
            [crop.left, crop.top, crop.width, crop.height].map(|n| n as u32);
        let cut = picture.crop_imm(left, top, width, height);
        let options =
            ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter(interpolation)));
        resizer.resize(&cut, &mut view, &options)?;
        Ok(data::planes(view.into_rgb8().pixels().map(|pixel| pixel.0)))
    });
    Ok(Read {
        views: views.collect::<Result<_>>()?,
        size: picture_size,
        index: 0,
    })
}

/// Blends transparent pixels over white, as in the emoji.
fn on_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    let (width, height) = picture.dimensions();
    let mut blended = RgbImage::new(width, height);
    for (to, from) in blended.pixels_mut().zip(picture.pixels()) {
        to.0 = over_white(from.0);
    }
    blended
}

/// Blends an RGBA color over white.
fn over_white([red, green, blue, alpha]: [u8; 4]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    [red, green, blue].map(|color| {
        let blended = u32::from(color) * alpha + 255 * (255 - alpha);
        ((blended + 127) / 255) as u8
    })
}

fn filter(interpolation: Interpolation) -> FilterType {
    match interpolation {
        Interpolation::Bicubic => FilterType::CatmullRom,
        Interpolation::Bilinear => FilterType::Bilinear,
    }
}

/// The picture's columns and rows as they are stored.
///
/// # Errors
/// If it is not a picture.
pub fn size(item: &Item) -> Result<(u32, u32)> {
    match item.encoding {
        Encoding::Planes { height, width, .. } => Ok((width as u32, height as u32)),
        Encoding::File => {
            let bytes = item.location.read()?;
            size_of_file(&bytes)
        }
    }
}

fn size_of_file(bytes: &[u8]) -> Result<(u32, u32)> {
    if heic::is_file(bytes) {
        return heic::size(bytes);
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    Ok(reader.into_dimensions()?)
}

/// Whether the header of a file declares a picture of more than [`LARGE`] bytes.
fn is_large(bytes: &[u8], encoding: Encoding) -> bool {
    if encoding != Encoding::File {
        return false;
    }
    size_of_file(bytes)
        .is_ok_and(|(width, height)| 4 * u64::from(width) * u64::from(height) > LARGE)
}

/// Decodes the picture at its stored size.
fn decoded(bytes: &[u8], encoding: Encoding) -> Result<DynamicImage> {
    let Encoding::Planes {
        height,
        width,
        channels,
        column_major,
    } = encoding
    else {
        return decoded_file(bytes);
    };
    if bytes.len() != channels * height * width {
        bail!(
            "{} bytes are not a picture of {width} x {height}",
            bytes.len()
        );
    }
    let at = |x: u32, y: u32, channel: usize| {
        let (x, y) = (x as usize, y as usize);
        let within = if column_major {
            x * height + y
        } else {
            y * width + x
        };
        bytes[channel * height * width + within]
    };
    let (columns, rows) = (width as u32, height as u32);
    Ok(match channels {
        3 => RgbImage::from_fn(columns, rows, |x, y| {
            image::Rgb([0, 1, 2].map(|c| at(x, y, c)))
        })
        .into(),
        _ => GrayImage::from_fn(columns, rows, |x, y| image::Luma([at(x, y, 0)])).into(),
    })
}

fn decoded_file(bytes: &[u8]) -> Result<DynamicImage> {
    // By content: extensions can be wrong.
    if heic::is_file(bytes) {
        return heic::decoded(bytes, MAX_PIXELS);
    }
    let mut decoder = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()?
        .into_decoder()?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS {
        bail!(
            "{width} x {height} pixels are more than the accepted {} million: make the picture smaller",
            MAX_PIXELS / 1_000_000
        );
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(decoder.total_bytes().saturating_mul(2).max(LARGE));
    decoder.set_limits(limits)?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    // Cameras store the sensor's picture as it is, and the camera's orientation in the metadata.
    picture.apply_orientation(orientation);
    Ok(with_whole_range(picture))
}

/// Bits per value of cameras and microscopes, whose files have 16.
const DEPTHS: [u32; 4] = [8, 10, 12, 14];

/// A picture with 16 bits per value that uses fewer of them, as 12-bit cameras write it, stretched to all 16: otherwise it would be nearly
/// black in the 8 bits in which pictures are kept. The number of bits is the smallest usual one that the largest value fits in.
fn with_whole_range(mut picture: DynamicImage) -> DynamicImage {
    fn stretch(values: &mut [u16], colors: usize, channels: usize) {
        let is_color = |at: usize| at % channels < colors;
        let of_colors = values.iter().enumerate().filter(|(at, _)| is_color(*at));
        let max = of_colors.map(|(_, value)| *value).max().unwrap_or(0);
        let Some(depth) = DEPTHS.into_iter().find(|depth| u32::from(max) < 1 << depth) else {
            return;
        };
        let white = (1u32 << depth) - 1;
        let all = u32::from(u16::MAX);
        for (_, value) in values
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| is_color(*at))
        {
            *value = ((u32::from(*value) * all + white / 2) / white) as u16;
        }
    }
    match &mut picture {
        DynamicImage::ImageLuma16(values) => stretch(values, 1, 1),
        DynamicImage::ImageLumaA16(values) => stretch(values, 1, 2),
        DynamicImage::ImageRgb16(values) => stretch(values, 3, 3),
        DynamicImage::ImageRgba16(values) => stretch(values, 3, 4),
        _ => {}
    }
    picture
}

/// Three planes of the middle square, `side` pixels per side, with transparent pixels blended over white.
fn middle_square(picture: DynamicImage, side: usize, filter: FilterType) -> Result<Vec<u8>> {
    let side = side as u32;
    let (width, height) = (picture.width(), picture.height());
    let whole = (width, height) == (side, side);
    if picture.color().has_alpha() {
        let picture = DynamicImage::from(picture.into_rgba8());
        let square = if whole {
            picture
        } else {
            resized(picture, side, filter)?
        };
        let square = square.into_rgba8();
        return Ok(data::planes(
            square.pixels().map(|pixel| over_white(pixel.0)),
        ));
    }
    let picture = DynamicImage::from(picture.into_rgb8());
    let square = if whole {
        picture
    } else {
        resized(picture, side, filter)?
    };
    Ok(data::planes(
        square.into_rgb8().pixels().map(|pixel| pixel.0),
    ))
}

/// The middle square of an 8-bit picture, resized with a filter that averages when it shrinks (antialiasing).
fn resized(picture: DynamicImage, side: u32, filter: FilterType) -> Result<DynamicImage> {
    let mut square = DynamicImage::new(side, side, picture.color());
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        // Crops the middle before resizing, so that nothing that is cut off is computed.
        .fit_into_destination(Some((0.5, 0.5)));
    Resizer::new().resize(&picture, &mut square, &options)?;
    Ok(square)
}

/// As [`planes`], for a file outside any data set, such as the query of a search.
///
/// # Errors
/// If it cannot be read.
pub fn planes_of_file(path: &Path, side: usize) -> Result<Vec<u8>> {
    let item = Item {
        name: path.display().to_string(),
        part: barlow_formats::Split::Train,
        class: None,
        location: barlow_formats::Location::File(path.to_owned()),
        encoding: Encoding::File,
    };
    planes(&item, side).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use barlow_formats::{Location, Split};
    use rayon::prelude::*;

    use super::*;

    fn item(bytes: Vec<u8>, encoding: Encoding) -> Item {
        Item {
            name: "x".into(),
            part: Split::Train,
            class: None,
            location: Location::memory(bytes),
            encoding,
        }
    }

    /// Whether a file shows red above, green below to the left, and blue below to the right, in 48 x 64 pixels.
    fn is_upright(bytes: &[u8]) {
        let picture = decoded(bytes, Encoding::File).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (48, 64));
        for ((x, y), color) in [
            ((24, 10), [200, 30, 30]),
            ((10, 50), [30, 180, 40]),
            ((40, 50), [20, 40, 200]),
        ] {
            let found = picture.get_pixel(x, y).0;
            let close = found.iter().zip(color).all(|(a, b)| a.abs_diff(b) < 8);
            assert!(close, "{found:?} instead of {color:?} at {x}, {y}");
        }
    }

    /// Written by pillow-heif 1.8 (libheif 1.23): stored as 64 x 48 pixels within 64 x 64, to be cut and turned.
    const TURNED_HEIC: &[u8] = include_bytes!("turned.heic");

    #[test]
    fn heic_is_read_and_turned() {
        is_upright(TURNED_HEIC);
        let item = item(TURNED_HEIC.to_vec(), Encoding::File);
        assert_eq!(size(&item).unwrap(), (48, 64));
        assert_eq!(planes(&item, 16).unwrap().len(), 3 * 16 * 16);
        assert!(is_picture(Path::new("IMG_0001.HEIC")));
        for end in 0..TURNED_HEIC.len() {
            // Cut off anywhere, it is an error or a picture, but no panic.
            let _ = decoded(&TURNED_HEIC[..end], Encoding::File);
        }
    }

    /// One color, 5000 x 4000 pixels, written by pillow-heif 1.8.
    const LARGE_HEIC: &[u8] = include_bytes!("large.heic");

    /// A decoder that waited for threads of the pool would wait for those that wait for it.
    #[test]
    fn large_heic_files_are_read_by_a_pool_of_few_threads() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
        let read = pool.unwrap().install(|| {
            let items: Vec<_> = (0..3)
                .map(|_| item(LARGE_HEIC.to_vec(), Encoding::File))
                .collect();
            items
                .par_iter()
                .map(|item| planes(item, 4).unwrap())
                .collect::<Vec<_>>()
        });
        assert!(is_large(LARGE_HEIC, Encoding::File));
        for planes in read {
            for (plane, value) in planes.chunks(16).zip([200u8, 40, 30]) {
                assert!(plane.iter().all(|x| x.abs_diff(value) < 8), "{plane:?}");
            }
        }
    }

    /// Written by Pillow 13 (libavif).
    #[test]
    #[cfg(feature = "avif")]
    fn avif_is_read() {
        is_upright(include_bytes!("small.avif"));
        assert!(is_picture(Path::new("x.avif")));
    }

    #[test]
    fn avif_is_not_taken_for_heic() {
        assert!(heic::is_file(TURNED_HEIC));
        assert!(!heic::is_file(include_bytes!("small.avif")));
        assert!(!heic::is_file(b""));
        assert!(!heic::is_file(&TURNED_HEIC[..8]));
    }

    #[test]
    fn sixteen_bits_keep_their_range() {
        let gray = |values: [u16; 4]| {
            let picture =
                image::ImageBuffer::<image::Luma<u16>, _>::from_raw(2, 2, values.to_vec());
            let mut png = Cursor::new(Vec::new());
            let picture = DynamicImage::ImageLuma16(picture.unwrap());
            picture.write_to(&mut png, ImageFormat::Png).unwrap();
            let planes = planes(&item(png.into_inner(), Encoding::File), 2).unwrap();
            planes[..4].to_vec()
        };
        // Of 16 bits, of 12, of 10, and of 8.
        assert_eq!(gray([0, 0x8000, 0xffff, 0x4000]), [0, 128, 255, 64]);
        assert_eq!(gray([0, 2048, 4095, 1024]), [0, 128, 255, 64]);
        assert_eq!(gray([0, 512, 1023, 256]), [0, 128, 255, 64]);
        assert_eq!(gray([0, 128, 255, 64]), [0, 128, 255, 64]);
        assert_eq!(gray([0; 4]), [0; 4]);
        // A value that is transparent does not count as bright.
        let picture =
            image::ImageBuffer::<image::LumaA<u16>, _>::from_raw(1, 1, vec![4095, 0xffff]);
        let stretched = with_whole_range(DynamicImage::ImageLumaA16(picture.unwrap()));
        assert_eq!(stretched.into_luma_alpha16().into_raw(), [0xffff, 0xffff]);
    }

    #[test]
    fn columns_and_gray_become_planes() {
        // Two rows, three columns, in gray: in row-major and in column-major order.
        let rows = item(
            vec![1, 2, 3, 4, 5, 6],
            Encoding::Planes {
                height: 2,
                width: 3,
                channels: 1,
                column_major: false,
            },
        );
        let columns = item(
            vec![1, 4, 2, 5, 3, 6],
            Encoding::Planes {
                height: 2,
                width: 3,
                channels: 1,
                column_major: true,
            },
        );
        let pictures = [rows, columns].map(|item| {
            decoded(&item.location.read().unwrap(), item.encoding)
                .unwrap()
                .to_rgb8()
        });
        assert_eq!(pictures[0], pictures[1]);
        assert_eq!(pictures[0].get_pixel(2, 1).0, [6, 6, 6]);
        assert_eq!(
            size(&item(
                Vec::new(),
                Encoding::Planes {
                    height: 2,
                    width: 3,
                    channels: 1,
                    column_major: true
                }
            ))
            .unwrap(),
            (3, 2)
        );
    }

    #[test]
    fn views_are_cut_as_the_device_cuts_them() {
        use barlow_core::augment::{Draw, Normalization};
        use barlow_core::data::Pictures;
        use barlow_core::device::cpu;

        let (height, width) = (37, 50);
        let bytes: Vec<u8> = (0..3 * height * width)
            .map(|i| {
                // Smooth: where a filter overshoots, as on noise, Pillow and this resizer clip between the two
                // directions.
                let (x, y) = ((i % width) as f32, (i / width) as f32);
                (128.0 + 60.0 * (x / 5.0).sin() * (y / 4.0).cos()) as u8
            })
            .collect();
        let encoding = Encoding::Planes {
            height,
            width,
            channels: 3,
            column_major: false,
        };
        let pictures = Pictures::new(height, width, bytes.clone()).upload(&cpu());
        let crops = [(0, 0, height, width), (5, 11, 20, 31), (30, 2, 6, 9)].map(
            |(top, left, height, width)| Crop {
                top,
                left,
                height,
                width,
            },
        );
        for interpolation in [Interpolation::Bicubic, Interpolation::Bilinear] {
            let cut = views(&item(bytes.clone(), encoding), 16, interpolation, |size| {
                assert_eq!(size, (height, width));
                crops.to_vec()
            });
            let cut = cut.unwrap().views;
            let draws: Vec<(usize, Draw)> = crops
                .iter()
                .map(|crop| {
                    let draw = Draw {
                        crop: *crop,
                        interpolation,
                        ..Draw::whole(height, width)
                    };
                    (0, draw)
                })
                .collect();
            let expected =
                barlow_core::ops::augment(&pictures, &draws, 16, &Normalization::NONE, &cpu());
            let expected = expected.into_data();
            let found = cut.iter().flatten().map(|byte| f32::from(*byte) / 255.0);
            for (found, expected) in found.zip(expected.iter::<f32>()) {
                // Rounding to bytes after each direction: half a level each, and the filter's eight-bit weights.
                assert!(
                    (found - expected).abs() < 2.0 / 255.0,
                    "{interpolation:?}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn decompression_bombs_are_refused() {
        // A PNG whose header declares more than a billion pixels.
        let mut png = Cursor::new(Vec::new());
        RgbImage::new(1, 1)
            .write_to(&mut png, ImageFormat::Png)
            .unwrap();
        let mut png = png.into_inner();
        png[16..20].copy_from_slice(&40_000u32.to_be_bytes());
        png[20..24].copy_from_slice(&40_000u32.to_be_bytes());
        let checksum = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&checksum.to_be_bytes());
        let error = planes(&item(png, Encoding::File), 32)
            .unwrap_err()
            .to_string();
        assert!(error.contains("40000 x 40000"), "{error}");
    }

    /// PNG's checksum.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| {
                if c & 1 == 1 {
                    (c >> 1) ^ 0xedb8_8320
                } else {
                    c >> 1
                }
            })
        })
    }
}
