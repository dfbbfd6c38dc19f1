//! HEIC, the format of Apple's cameras, which the `image` crate does not read.

use std::path::Path;

use anyhow::{Context, Result, bail};
use heic_rs::{DecodeOptions, PixelLayout};
use image::{DynamicImage, RgbImage, RgbaImage};

/// The endings of its files' names.
const ENDINGS: [&str; 3] = ["heic", "heif", "hif"];

/// Whether a file's ending is that of HEIC.
pub fn is_name(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS.iter().any(|of| of.eq_ignore_ascii_case(ending)))
}

/// Whether these are the bytes of a HEIC file: the `ftyp` box of an ISO file with one of HEIC's brands. AVIF has the same container, and
/// may name the brand of both, `mif1`, first.
pub fn is_file(bytes: &[u8]) -> bool {
    const BRANDS: [&[u8; 4]; 6] = [b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1"];
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return false;
    };
    let end = (u32::from_be_bytes(*length) as usize).min(bytes.len());
    // The major brand, a version, and the compatible brands.
    let brands = bytes.get(8..end).unwrap_or_default().chunks_exact(4);
    let is_avif = |brand: &[u8]| brand.starts_with(b"avi");
    rest.starts_with(b"ftyp")
        && !brands.clone().any(is_avif)
        && brands
            .take(1)
            .any(|major| BRANDS.iter().any(|brand| brand[..] == *major))
}

/// Columns and rows of the picture, turned as its camera was.
///
/// # Errors
/// If it is damaged.
pub fn size(bytes: &[u8]) -> Result<(u32, u32)> {
    let info = heic_rs::probe(bytes).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok((info.width, info.height))
}

/// The picture, turned as its camera was, with at most `max_pixels`.
///
/// # Errors
/// If it is damaged or larger.
pub fn decoded(bytes: &[u8], max_pixels: u64) -> Result<DynamicImage> {
    let has_alpha = heic_rs::probe(bytes).is_ok_and(|info| info.has_alpha);
    let layout = match has_alpha {
        true => PixelLayout::Rgba8,
        false => PixelLayout::Rgb8,
    };
    // One thread: pictures are decoded in parallel already, and large ones one at a time, under a lock that another picture's decoder
    // must not wait for on the same thread.
    let options = DecodeOptions::default()
        .with_threads(Some(1))
        .with_layout(layout)
        .with_max_pixels(Some(max_pixels));
    let picture = heic_rs::decode(bytes, &options).map_err(|error| anyhow::anyhow!("{error}"))?;
    let (width, height) = (picture.width, picture.height);
    let picture = match picture.layout {
        PixelLayout::Rgb8 => RgbImage::from_raw(width, height, picture.data).map(Into::into),
        PixelLayout::Rgba8 => RgbaImage::from_raw(width, height, picture.data).map(Into::into),
        layout => bail!("an unexpected layout, {layout:?}"),
    };
    picture.context("fewer pixels than the picture has")
}
