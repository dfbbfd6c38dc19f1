//! Writes a run's networks as an ONNX file (`onnx/onnx.proto`, IR version 8, opset 17), for runtimes that know neither
//! Barlow nor PyTorch.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use barlow_core::config::Config;
use barlow_core::model::{BatchNorm, EncoderConfig, Layer, Stem};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<StringEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StringEntry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, optional, tag = "2")]
    f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes, tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

/// `TensorProto.FLOAT`.
const FLOAT: i32 = 1;
/// `AttributeProto.FLOAT`, `.INT` and `.INTS`.
const KIND_FLOAT: i32 = 1;
const KIND_INT: i32 = 2;
const KIND_INTS: i32 = 7;

/// Tensors by name: shape and values.
pub type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

/// The content of an ONNX file with the encoder that `config` describes; `tensors` have the official code's names. The
/// input is `pictures`, normalized, `[n, channels, h, w]`. The outputs are `features`, with `projector` also `embeddings`, and one for each of
/// `layers` under its name: the feature maps `[n, channels, rows, columns]` of a stage, or the numbers `[n, width]` of a projector's layer.
///
/// # Errors
/// If a tensor is missing, there is no such layer, or the pooling grid does not divide the last feature map.
pub fn file(
    config: &Config,
    tensors: &Tensors,
    projector: bool,
    layers: &[Layer],
) -> Result<Vec<u8>> {
    let mut graph = Graph {
        tensors,
        nodes: Vec::new(),
        initializers: Vec::new(),
        stages: Vec::new(),
        hidden: Vec::new(),
    };
    let size = config.view_size;
    let features = graph.encoder(&config.encoder, size)?;
    let mut outputs = vec![output("features", config.encoder.features())];
    graph.node("Identity", &[&features], "features", Vec::new());
    let is_of_projector = |layer: &Layer| matches!(layer, Layer::Projector(_));
    if projector || layers.iter().any(is_of_projector) {
        let embeddings = graph.projector(&features, config.projector.widths.len())?;
        if projector {
            graph.node("Identity", &[&embeddings], "embeddings", Vec::new());
            outputs.push(output("embeddings", config.projector.embedding()));
        }
    }
    for layer in layers {
        let (node, shape) = match *layer {
            Layer::Stage(stage) => {
                let channels = config.encoder.stage_output(stage, size);
                let side = |name: &str| dimension(&format!("{layer} {name}"));
                let shape = channels.map(|(channels, _)| {
                    vec![
                        dimension("n"),
                        extent(channels),
                        side("rows"),
                        side("columns"),
                    ]
                });
                (graph.stages.get(stage - 1), shape)
            }
            Layer::Projector(number) => {
                let width = config.projector.widths.get(number - 1);
                let shape = width.map(|width| vec![dimension("n"), extent(*width)]);
                (graph.hidden.get(number - 1), shape)
            }
        };
        let (Some(node), Some(shape)) = (node.cloned(), shape) else {
            let known = Layer::all(&config.encoder, &config.projector);
            let known: Vec<String> = known.iter().map(Layer::to_string).collect();
            bail!(
                "--layer: there is no {layer}: the layers are {}",
                known.join(", ")
            );
        };
        let name = layer.to_string();
        graph.node("Identity", &[&node], &name, Vec::new());
        outputs.push(value(&name, shape));
    }
    // Pooling to a grid needs a fixed input size; the global mean does not.
    let side = |name: &str| match config.encoder.pool_grid {
        1 => dimension(name),
        _ => extent(config.view_size),
    };
    let input = value(
        "pictures",
        vec![
            dimension("n"),
            extent(config.encoder.channels),
            side("height"),
            side("width"),
        ],
    );
    let normalization = config.normalization();
    let channels = config.encoder.channels;
    let entry = |key: &str, value: String| StringEntry {
        key: key.to_owned(),
        value,
    };
    let model = ModelProto {
        ir_version: 8,
        producer_name: "barlow".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(GraphProto {
            node: graph.nodes,
            name: "barlow".into(),
            initializer: graph.initializers,
            input: vec![input],
            output: outputs,
        }),
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: 17,
        }],
        metadata_props: vec![
            entry("mean", format!("{:?}", &normalization.mean[..channels])),
            entry("std", format!("{:?}", &normalization.std[..channels])),
            entry("size", config.view_size.to_string()),
        ],
    };
    Ok(model.encode_to_vec())
}

fn extent(value: usize) -> Dimension {
    Dimension {
        value: Some(value as i64),
        name: None,
    }
}

fn dimension(name: &str) -> Dimension {
    Dimension {
        value: None,
        name: Some(name.to_owned()),
    }
}

fn value(name: &str, dim: Vec<Dimension>) -> ValueInfo {
    ValueInfo {
        name: name.to_owned(),
        kind: Some(TypeProto {
            tensor: Some(TensorType {
                elem_type: FLOAT,
                shape: Some(Shape { dim }),
            }),
        }),
    }
}

fn output(name: &str, width: usize) -> ValueInfo {
    value(name, vec![dimension("n"), extent(width)])
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: Some(value),
        kind: KIND_INT,
        ..Attribute::default()
    }
}

fn ints(name: &str, values: &[usize]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: values.iter().map(|value| *value as i64).collect(),
        kind: KIND_INTS,
        ..Attribute::default()
    }
}

/// A graph under construction; each node is named after its output.
struct Graph<'a> {
    tensors: &'a Tensors,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// The names of the stages' outputs, and of those of the projector's layers.
    stages: Vec<String>,
    hidden: Vec<String>,
}

impl Graph<'_> {
    fn node(
        &mut self,
        kind: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<Attribute>,
    ) -> String {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![output.to_owned()],
            name: format!("{kind}: {output}"),
            op_type: kind.to_owned(),
            attribute: attributes,
        });
        output.to_owned()
    }

    /// Adds a tensor to the file; returns its name and shape.
    fn tensor(&mut self, name: &str) -> Result<(String, Vec<usize>)> {
        let (shape, values) = self
            .tensors
            .get(name)
            .with_context(|| format!("the run has no tensor {name}"))?;
        self.initializers.push(TensorProto {
            dims: shape.iter().map(|extent| *extent as i64).collect(),
            data_type: FLOAT,
            name: name.to_owned(),
            raw_data: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        });
        Ok((name.to_owned(), shape.clone()))
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn conv(&mut self, x: &str, name: &str, stride: usize) -> Result<String> {
        self.padded_conv(x, name, stride, None)
    }

    /// Adds a convolution with `padding` zeros on each side; `None` means half the kernel size.
    fn padded_conv(
        &mut self,
        x: &str,
        name: &str,
        stride: usize,
        padding: Option<usize>,
    ) -> Result<String> {
        let (weight, shape) = self.tensor(&format!("{name}.weight"))?;
        let kernel = *shape
            .get(2)
            .context("a convolution's weight has four dimensions")?;
        let attributes = vec![
            ints("kernel_shape", &[kernel; 2]),
            ints("pads", &[padding.unwrap_or(kernel / 2); 4]),
            ints("strides", &[stride; 2]),
        ];
        Ok(self.node("Conv", &[x, &weight], name, attributes))
    }

    fn batch_norm(&mut self, x: &str, name: &str) -> Result<String> {
        let mut inputs = vec![x.to_owned()];
        for part in ["weight", "bias", "running_mean", "running_var"] {
            inputs.push(self.tensor(&format!("{name}.{part}"))?.0);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let epsilon = Attribute {
            name: "epsilon".into(),
            f: Some(BatchNorm::EPSILON as f32),
            kind: KIND_FLOAT,
            ..Attribute::default()
        };
        Ok(self.node("BatchNormalization", &inputs, name, vec![epsilon]))
    }

    fn relu(&mut self, x: &str) -> String {
        self.node("Relu", &[x], &format!("{x}.relu"), Vec::new())
    }

    fn encoder(&mut self, config: &EncoderConfig, size: usize) -> Result<String> {
        let stem = config.layout().stem;
        let mut side = stem.out_side(size);
        let x = self.padded_conv(
            "pictures",
            "backbone.conv1",
            stem.stride,
            Some(stem.padding),
        )?;
        let x = self.batch_norm(&x, "backbone.bn1")?;
        let mut x = self.relu(&x);
        if config.stem == Stem::ImageNet {
            side = side.div_ceil(2);
            let attributes = vec![
                ints("kernel_shape", &[3; 2]),
                ints("pads", &[1; 4]),
                ints("strides", &[2; 2]),
            ];
            x = self.node("MaxPool", &[&x], "backbone.maxpool", attributes);
        }
        for stage in 1.. {
            if !self.has(&format!("backbone.layer{stage}.0.conv1.weight")) {
                break;
            }
            for block in 0.. {
                let name = format!("backbone.layer{stage}.{block}");
                if !self.has(&format!("{name}.conv1.weight")) {
                    break;
                }
                let stride = if stage > 1 && block == 0 { 2 } else { 1 };
                side = side.div_ceil(stride);
                x = self.block(&x, &name, stride)?;
            }
            self.stages.push(x.clone());
        }
        let pooled = if config.pool_grid == 1 {
            self.node("GlobalAveragePool", &[&x], "backbone.avgpool", Vec::new())
        } else {
            let cell = side / config.pool_grid;
            if cell == 0 || !side.is_multiple_of(config.pool_grid) {
                bail!(
                    "the last feature map has {side} x {side} positions, which a grid of {0} x {0} cells does not divide: ONNX has \
                     no pooling for that",
                    config.pool_grid
                );
            }
            let attributes = vec![
                ints("kernel_shape", &[cell; 2]),
                ints("strides", &[cell; 2]),
            ];
            self.node("AveragePool", &[&x], "backbone.avgpool", attributes)
        };
        Ok(self.node(
            "Flatten",
            &[&pooled],
            "backbone.flatten",
            vec![int("axis", 1)],
        ))
    }

    fn block(&mut self, input: &str, name: &str, stride: usize) -> Result<String> {
        let count = if self.has(&format!("{name}.conv3.weight")) {
            3
        } else {
            2
        };
        // torchvision puts the stride on the first 3x3 convolution.
        let strided = count - 1;
        let mut x = input.to_owned();
        for number in 1..=count {
            let stride = if number == strided { stride } else { 1 };
            x = self.conv(&x, &format!("{name}.conv{number}"), stride)?;
            x = self.batch_norm(&x, &format!("{name}.bn{number}"))?;
            if number < count {
                x = self.relu(&x);
            }
        }
        let shortcut = if self.has(&format!("{name}.downsample.0.weight")) {
            let around = self.conv(input, &format!("{name}.downsample.0"), stride)?;
            self.batch_norm(&around, &format!("{name}.downsample.1"))?
        } else {
            input.to_owned()
        };
        let sum = self.node("Add", &[&x, &shortcut], &format!("{name}.sum"), Vec::new());
        Ok(self.relu(&sum))
    }

    fn projector(&mut self, features: &str, layers: usize) -> Result<String> {
        const MODULES_PER_LAYER: usize = 3;
        let mut x = features.to_owned();
        for layer in 0..layers {
            let name = format!("projector.{}", MODULES_PER_LAYER * layer);
            let (weight, _) = self.tensor(&format!("{name}.weight"))?;
            x = self.node("Gemm", &[&x, &weight], &name, vec![int("transB", 1)]);
            if layer + 1 < layers {
                let norm = format!("projector.{}", MODULES_PER_LAYER * layer + 1);
                x = self.batch_norm(&x, &norm)?;
                x = self.relu(&x);
            }
            self.hidden.push(x.clone());
        }
        Ok(x)
    }
}
