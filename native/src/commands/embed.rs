//! `barlow embed`: writes the features of pictures to a file.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use barlow_core::evaluate::Features;
use barlow_core::model::Layer;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use safetensors::tensor::{Dtype, TensorView};

use super::evaluate::named;
use crate::cli::Embed;
use crate::data::{counted_parts, open};
use crate::embed::{Encoder, Kind};
use crate::run_folder::{RunFolder, write_file};

/// Rows per row group of a Parquet file.
const ROW_GROUP: usize = 16_384;

/// Encodes all pictures, and writes their vectors and names to a file.
pub fn embed(arguments: &Embed) -> Result<()> {
    let path = &arguments.to;
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let write = match ending.as_deref() {
        Some("parquet") => parquet_file,
        Some("npy") => npy_file,
        Some("safetensors") => safetensors_file,
        Some("csv") => csv_file,
        _ => bail!(
            "--to {}: the name must end in .parquet, .csv, .npy or .safetensors",
            path.display()
        ),
    };
    let catalog = open(&arguments.path)?;
    let output = Output::of(arguments)?;
    let layer = output.layer.map(|layer| (layer, output.grid));
    let mut encoder = Encoder::open_at(&arguments.run, arguments.best, arguments.device, layer)?;
    let members: Vec<usize> = (0..catalog.items.len()).collect();
    say!(
        "{}, on {}",
        counted_parts(&catalog, &members),
        encoder.device
    );
    let kind = match output.layer {
        _ if arguments.embeddings => Kind::Embeddings,
        Some(Layer::Projector(_)) => Kind::Embeddings,
        _ => Kind::Features,
    };
    let encoded = encoder.encode(&catalog, &members, kind, |_, _| {})?;
    let names: Vec<&str> = encoded
        .members
        .iter()
        .map(|m| catalog.items[*m].name.as_str())
        .collect();
    let vectors = &encoded.vectors;
    let shape = output.shape(vectors.width);
    let bytes = write(&names, vectors, &shape)?;
    write_file(path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    let mut also = String::new();
    if ending.as_deref() == Some("npy") {
        let names_path = path.with_extension("names.txt");
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        write_file(&names_path, text.as_bytes())
            .with_context(|| format!("cannot write {}", names_path.display()))?;
        also = format!(", and their names in {}", names_path.display());
    }
    say!(
        "{}: {} {} numbers{also}",
        path.display(),
        vectors.count(),
        match &shape[..] {
            [width] => format!("vectors of {width}"),
            shape => format!(
                "feature maps of {}",
                shape
                    .iter()
                    .map(usize::to_string)
                    .collect::<Vec<_>>()
                    .join(" x ")
            ),
        }
    );
    say!(
        "{}",
        how_to_read(path, ending.as_deref().unwrap_or_default())
    );
    Ok(())
}

/// What is written of each picture.
struct Output {
    /// Another layer than the encoder's last one, or that one with its feature maps.
    layer: Option<Layer>,
    /// Cells per side that its output is averaged over.
    grid: usize,
    /// Whether the cells are those of the feature map.
    maps: bool,
}

impl Output {
    fn of(arguments: &Embed) -> Result<Self> {
        let checkpoint = RunFolder::open(&arguments.run)?.checkpoint(arguments.best)?;
        let config = &checkpoint.config;
        let known = Layer::all(&config.encoder, &config.projector);
        let last = known.iter().rfind(|layer| matches!(layer, Layer::Stage(_)));
        let layer = match arguments.maps {
            true => arguments.layer.or(last.copied()),
            false => arguments.layer,
        };
        if let Some(layer) = layer.filter(|layer| !known.contains(layer)) {
            bail!("--layer {layer}: {}", named(&known));
        }
        let grid = match (layer, arguments.maps) {
            (Some(Layer::Stage(stage)), true) => {
                let output = config.encoder.stage_output(stage, config.view_size);
                output.map_or(1, |(_, side)| side)
            }
            (_, true) => bail!(
                "--maps: a projector has no feature maps: name a stage, such as --layer layer2"
            ),
            (_, false) => config.encoder.pool_grid,
        };
        Ok(Self {
            layer,
            grid,
            maps: arguments.maps,
        })
    }

    /// The shape of a picture's numbers.
    fn shape(&self, width: usize) -> Vec<usize> {
        match self.maps {
            true => vec![width / (self.grid * self.grid), self.grid, self.grid],
            false => vec![width],
        }
    }
}

fn how_to_read(path: &Path, ending: &str) -> String {
    let path = path.display();
    match ending {
        "parquet" => {
            format!("read it with pandas.read_parquet(\"{path}\"): columns `name` and `features`")
        }
        "csv" => format!(
            "read it with pandas.read_csv(\"{path}\"): a column `name`, and one for each number"
        ),
        "npy" => format!(
            "read it with numpy.load(\"{path}\"); row i has the name in line i of the names file"
        ),
        _ => format!(
            "read it with safetensors: f = safe_open(\"{path}\", \"pt\"); f.get_tensor(\"features\"), \
             json.loads(f.metadata()[\"names\"])"
        ),
    }
}

fn parquet_file(names: &[&str], vectors: &Features, _: &[usize]) -> Result<Vec<u8>> {
    // The list layout of Parquet's specification, which pandas, Arrow and DuckDB read as a list.
    const SCHEMA: &str = "message features {
        required binary name (UTF8);
        required group features (LIST) { repeated group list { required float element; } }
    }";
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::new()))?;
    let width = vectors.width;
    // Repetition levels: 0 starts a new list, 1 continues it.
    let repetition: Vec<i16> = (0..width).map(|i| i16::from(i > 0)).collect();
    for (rows, values) in names
        .chunks(ROW_GROUP)
        .zip(vectors.values.chunks(ROW_GROUP * width))
    {
        let mut group = writer.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            let names: Vec<ByteArray> = rows.iter().map(|name| ByteArray::from(*name)).collect();
            column
                .typed::<ByteArrayType>()
                .write_batch(&names, None, None)?;
            column.close()?;
        }
        if let Some(mut column) = group.next_column()? {
            let definition = vec![1; values.len()];
            let repetition = repetition.repeat(rows.len());
            column.typed::<FloatType>().write_batch(
                values,
                Some(&definition),
                Some(&repetition),
            )?;
            column.close()?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(bytes)
}

fn csv_file(names: &[&str], vectors: &Features, _: &[usize]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_field("name")?;
    writer.write_record((0..vectors.width).map(|i| format!("f{i}")))?;
    for (at, name) in names.iter().enumerate() {
        writer.write_field(name)?;
        // The shortest text that reads back as the same number.
        writer.write_record(vectors.row(at).iter().map(f32::to_string))?;
    }
    writer.into_inner().context("cannot finish the table")
}

fn npy_file(_: &[&str], vectors: &Features, shape: &[usize]) -> Result<Vec<u8>> {
    use npyz::WriterBuilder as _;
    let mut bytes = Vec::new();
    let all: Vec<u64> = std::iter::once(vectors.count())
        .chain(shape.iter().copied())
        .map(|extent| extent as u64)
        .collect();
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&all)
        .writer(&mut bytes)
        .begin_nd()?;
    writer.extend(vectors.values.iter().copied())?;
    writer.finish()?;
    Ok(bytes)
}

fn safetensors_file(names: &[&str], vectors: &Features, shape: &[usize]) -> Result<Vec<u8>> {
    let values: Vec<u8> = vectors
        .values
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let shape = [&[vectors.count()], shape].concat();
    let view = TensorView::new(Dtype::F32, shape, &values)?;
    let metadata = [("names".to_owned(), serde_json::to_string(names)?)];
    Ok(safetensors::serialize(
        [("features", view)],
        Some(metadata.into()),
    )?)
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::RowAccessor as _;

    use super::*;

    fn vectors() -> (Vec<&'static str>, Features) {
        let values = (0..6).map(|i| i as f32 / 2.0).collect();
        (vec!["a/1.png", "ü, \"2\".png"], Features::new(3, values))
    }

    #[test]
    fn parquet_reads_back() {
        let (names, vectors) = vectors();
        let bytes = parquet_file(&names, &vectors, &[3]).unwrap();
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
        let rows: Vec<_> = reader
            .get_row_iter(None)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].get_string(0).unwrap(), names[1]);
        let list = rows[1].get_list(1).unwrap();
        let values: Vec<String> = list.elements().iter().map(ToString::to_string).collect();
        assert_eq!(values, ["1.5", "2.0", "2.5"]);
    }

    #[test]
    fn csv_reads_back() {
        let (names, vectors) = vectors();
        let bytes = csv_file(&names, &vectors, &[3]).unwrap();
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        assert_eq!(reader.headers().unwrap(), vec!["name", "f0", "f1", "f2"]);
        for (at, record) in reader.records().enumerate() {
            let record = record.unwrap();
            assert_eq!(&record[0], names[at]);
            let values: Vec<f32> = record.iter().skip(1).map(|x| x.parse().unwrap()).collect();
            assert_eq!(values, vectors.row(at));
        }
    }

    #[test]
    fn npy_and_safetensors_read_back() {
        let (names, vectors) = vectors();
        let bytes = npy_file(&names, &vectors, &[3]).unwrap();
        let file = npyz::NpyFile::new(&bytes[..]).unwrap();
        assert_eq!(file.shape(), [2, 3]);
        assert_eq!(file.into_vec::<f32>().unwrap(), vectors.values);
        let bytes = safetensors_file(&names, &vectors, &[3]).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let read: Vec<String> =
            serde_json::from_str(&header.metadata().as_ref().unwrap()["names"]).unwrap();
        assert_eq!(read, names);
    }
}
