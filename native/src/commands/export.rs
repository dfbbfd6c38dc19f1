//! `barlow export`: writes a run's networks for other programs.

use anyhow::{Context, Result, bail};
use barlow_core::device::cpu;
use barlow_core::model::{Architecture, Layer, Stem};
use barlow_core::train::{encoder_weights, named_tensors, network_weights};
use pollster::block_on;

use crate::cli::Export;
use crate::run_folder::{RunFolder, write_file};
use crate::{hugging_face, onnx};

/// Exports the encoder of the run's last checkpoint, or of its best one.
pub fn export(arguments: &Export) -> Result<()> {
    let folder = RunFolder::open(&arguments.run)?;
    let checkpoint = folder.checkpoint(arguments.best)?;
    let config = &checkpoint.config;
    let model = checkpoint.model(config, &cpu())?;
    let path = &arguments.to;
    let mut layers = arguments.layer.clone();
    layers.sort_by_key(Layer::to_string);
    layers.dedup();
    if layers.len() < arguments.layer.len() {
        bail!("--layer: a layer is named twice");
    }
    if !arguments.layer.is_empty()
        && !path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
    {
        bail!(
            "--layer: only an .onnx file has outputs of layers, not {}; `barlow embed --layer` writes them for pictures",
            path.display()
        );
    }
    if path.extension().is_none() || path.is_dir() {
        if arguments.projector {
            bail!(
                "--to {}: a folder holds the encoder alone: leave out --projector, or name a file",
                path.display()
            );
        }
        hugging_face::export(&folder, &checkpoint, path)?;
        say!(
            "{0}: model.safetensors, config.json and README.md, in the layout of Hugging Face's hub: huggingface-cli upload NAME {0}",
            path.display()
        );
        return Ok(());
    }
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let shown = path.display();
    let bytes = match ending.as_deref() {
        Some("safetensors") if arguments.projector => block_on(network_weights(&model))?,
        Some("safetensors") => block_on(encoder_weights(&model.encoder))?,
        Some("onnx") => {
            let tensors = block_on(named_tensors(&model))?
                .into_iter()
                .map(|(name, data)| {
                    let shape = data.shape().to_vec();
                    let values = data.iter::<f32>().collect();
                    (name, (shape, values))
                });
            onnx::file(
                config,
                &tensors.collect(),
                arguments.projector,
                &arguments.layer,
            )?
        }
        _ => bail!(
            "--to {shown}: the name must end in .safetensors or .onnx, or be that of a folder"
        ),
    };
    write_file(path, &bytes).with_context(|| format!("cannot write {shown}"))?;
    say!("{shown}: {} KB", bytes.len() >> 10);
    let channels = config.encoder.channels;
    let normalization = config.normalization();
    let (mean, std) = (
        &normalization.mean[..channels],
        &normalization.std[..channels],
    );
    let size = config.view_size;
    if ending.as_deref() == Some("onnx") {
        let mut outputs = vec!["features".to_owned()];
        outputs.extend(arguments.projector.then(|| "embeddings".to_owned()));
        outputs.extend(arguments.layer.iter().map(Layer::to_string));
        say!(
            "\nimport onnxruntime\nsession = onnxruntime.InferenceSession({shown:?})\n\
             # pictures: float32 [n, {channels}, {size}, {size}], (0..1 - {mean:?}) / {std:?}\n\
             {outputs}, = session.run(None, {{\"pictures\": pictures}})",
            outputs = outputs.join(", "),
            shown = shown.to_string()
        );
        return Ok(());
    }
    let encoder = &config.encoder;
    let known = match encoder.architecture {
        Architecture::ResNet18 => Some("resnet18"),
        Architecture::ResNet34 => Some("resnet34"),
        Architecture::ResNet50 => Some("resnet50"),
        Architecture::Small => None,
    };
    let Some(name) = known.filter(|_| encoder.width == 64 && !arguments.projector) else {
        say!(
            "torchvision has no such network{}; the tensors have torchvision's names",
            if arguments.projector {
                " with a projector"
            } else {
                ""
            }
        );
        return Ok(());
    };
    say!("\nimport torch, torchvision\nfrom safetensors.torch import load_file");
    say!("model = torchvision.models.{name}()");
    let stem = encoder.layout().stem;
    if encoder.stem != Stem::ImageNet || encoder.stem_padding.is_some() || channels != 3 {
        say!(
            "model.conv1 = torch.nn.Conv2d({channels}, 64, {}, stride={}, padding={}, bias=False)",
            stem.kernel,
            stem.stride,
            stem.padding
        );
    }
    if encoder.stem != Stem::ImageNet {
        say!("model.maxpool = torch.nn.Identity()");
    }
    if encoder.pool_grid > 1 {
        say!(
            "model.avgpool = torch.nn.AdaptiveAvgPool2d({})",
            encoder.pool_grid
        );
    }
    say!("model.fc = torch.nn.Identity()");
    say!("model.load_state_dict(load_file({:?}))", shown.to_string());
    say!("model.eval()  # pictures: [n, {channels}, {size}, {size}], (0..1 - {mean:?}) / {std:?}");
    Ok(())
}
