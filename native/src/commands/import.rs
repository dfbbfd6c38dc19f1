//! `barlow import`: makes a run from weights that PyTorch wrote.

use anyhow::{Result, bail};
use barlow_core::config::Fit;
use barlow_core::model::{EncoderConfig, Stem};
use barlow_core::train::Checkpoint;

use crate::cli::Import;
use crate::run_folder::RunFolder;
use crate::settings::{Crops, Data, Keep, Settings, Streaming, side_for};
use crate::weights::{Imported, Unsaid, list};

/// Reads the file, reports which of its tensors are used, and saves them as a run.
pub fn import(arguments: &Import) -> Result<()> {
    let unsaid = Unsaid {
        projector: arguments.projector.clone(),
        stem: arguments.stem.map(Into::into),
        stem_padding: arguments.stem_padding,
        size: arguments.size,
        pool_grid: Some(arguments.pool_grid),
    };
    let mut import = Imported::read(&arguments.file, &unsaid)?;
    let config = import.config.clone();
    let (tensors, missing) = import.take_model()?;
    if !missing.is_empty() {
        bail!(
            "{} does not hold a complete network; missing: {}",
            arguments.file.display(),
            list(&missing)
        );
    }
    let memory = import.take_momentum();
    let epochs = import.epochs;
    let bytes = Checkpoint::imported(&config, epochs, tensors, memory.clone())?;
    let name = arguments
        .file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "imported".into());
    let folder = RunFolder::create(arguments.out.as_deref(), &name)?;
    let settings = Settings {
        data: Data {
            folder: None,
            side: side_for(config.view_size),
            stream: Streaming::Auto,
            crops: Crops::Auto,
            cache: true,
        },
        keep: Keep::default(),
        training: config.clone(),
        fit: Fit::default(),
    };
    folder.write("config.toml", settings.to_toml()?.as_bytes())?;
    folder.write_checkpoint(0, &bytes, 1)?;

    let EncoderConfig {
        architecture,
        width,
        stem,
        ..
    } = config.encoder;
    say!(
        "{}: {architecture:?}, {width} wide, {} stem, {} features",
        arguments.file.display(),
        if stem == Stem::ImageNet {
            "ImageNet"
        } else {
            "small-picture"
        },
        config.encoder.features()
    );
    match import.has_projector {
        true => say!("projector: {:?}", config.projector.widths),
        false => say!(
            "no projector in the file: a new one with widths {:?} follows the encoder (--projector chooses other widths)",
            config.projector.widths
        ),
    }
    if epochs > 0 {
        say!("it was trained for {epochs} epochs");
    }
    match memory.len() {
        0 => {}
        count => say!("imported the optimizer's momentum of {count} parameters too"),
    }
    let stem = config.encoder.layout().stem;
    if stem.kernel == 3 && arguments.stem_padding.is_none() {
        say!(
            "the first convolution's padding is not in the file: {} is assumed (solo-learn's CIFAR networks use 2: \
             --stem-padding 2)",
            stem.padding
        );
    }
    for note in &import.notes {
        say!("{note}");
    }
    let left: Vec<String> = import.tensors.into_keys().collect();
    match left.len() {
        0 => say!("every tensor of the file is used"),
        count => say!("{count} tensors of the file are not used: {}", list(&left)),
    }
    let run = folder.path().display();
    say!("saved as the run {run}; for example:");
    say!("  barlow embed {run} PICTURES");
    say!("  barlow train PICTURES --resume {run}");
    Ok(())
}
