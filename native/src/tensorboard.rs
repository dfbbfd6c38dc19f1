//! Writes a run's curves for TensorBoard: records of protocol buffers (`tensorflow/core/util/event.proto`) with
//! checksums (`tensorflow/core/lib/io/record_writer.cc`).

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes, tag = "4")]
    encoded_image_string: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`: TensorBoard discards earlier files' events of this step and later ones, which are repeated.
const START: i32 = 1;
/// The `colorspace` of an image with red, green and blue.
const RGB: i32 = 3;

/// An open file of events.
pub struct EventFile {
    file: File,
}

impl EventFile {
    /// Creates a file in `folder`, for the steps after `done`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path, done: usize) -> Result<Self> {
        let now = seconds();
        // TensorBoard reads a folder's files in the order of their names.
        let name = format!("events.out.tfevents.{:010}.barlow.{done}", now as u64);
        let path = folder.join(name);
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut events = Self { file };
        events.write(Event {
            wall_time: now,
            file_version: Some("brain.Event:2".into()),
            ..Event::default()
        })?;
        events.write(Event {
            wall_time: now,
            step: done as i64 + 1,
            session_log: Some(SessionLog { status: START }),
            ..Event::default()
        })?;
        Ok(events)
    }

    /// Adds named scalars.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn numbers<'n>(
        &mut self,
        step: usize,
        numbers: impl IntoIterator<Item = (&'n str, f64)>,
    ) -> Result<()> {
        let value = numbers.into_iter().map(|(tag, number)| Value {
            tag: tag.to_owned(),
            simple_value: Some(number as f32),
            image: None,
        });
        self.summary(step, value.collect())
    }

    /// Adds a square picture of `width` x `width` pixels, given as the content of a PNG file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn picture(&mut self, step: usize, tag: &str, width: usize, png: &[u8]) -> Result<()> {
        let image = Image {
            height: width as i32,
            width: width as i32,
            colorspace: RGB,
            encoded_image_string: png.to_vec(),
        };
        let value = Value {
            tag: tag.to_owned(),
            simple_value: None,
            image: Some(image),
        };
        self.summary(step, vec![value])
    }

    fn summary(&mut self, step: usize, value: Vec<Value>) -> Result<()> {
        self.write(Event {
            wall_time: seconds(),
            step: step as i64,
            summary: Some(Summary { value }),
            ..Event::default()
        })
    }

    fn write(&mut self, event: Event) -> Result<()> {
        let record = record(&event.encode_to_vec());
        self.file
            .write_all(&record)
            .context("cannot write the events for TensorBoard: is the disk full?")
    }
}

fn seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}

/// A record: the length, its checksum, the bytes, their checksum.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let checksums = [&length[..], bytes].map(|part| masked(crc32c::crc32c(part)).to_le_bytes());
    [&length[..], &checksums[0], bytes, &checksums[1]].concat()
}

/// Masks a checksum as records store it: the CRC of data that contains its own CRC would be a constant.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_with_their_checksums() {
        let place = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(place.path(), 4).unwrap();
        events
            .numbers(5, [("loss", 1.5), ("diagonal", 0.25)])
            .unwrap();
        let path = std::fs::read_dir(place.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let bytes = std::fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut read = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[..length + 16], record(&rest[12..12 + length]));
            read.push(Event::decode(&rest[12..12 + length]).unwrap());
            rest = &rest[length + 16..];
        }
        // The first record of every file is the one that TensorFlow 2 writes, except for the time.
        assert_eq!(
            bytes[8..12],
            masked(crc32c::crc32c(&24u64.to_le_bytes())).to_le_bytes()
        );
        assert_eq!(read[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!(
            (read[1].step, read[1].session_log.clone().unwrap().status),
            (5, START)
        );
        let values = &read[2].summary.as_ref().unwrap().value;
        assert_eq!(
            (values[1].tag.as_str(), values[1].simple_value),
            ("diagonal", Some(0.25))
        );
    }
}
