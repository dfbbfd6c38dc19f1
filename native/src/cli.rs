//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use barlow_core::config::Config;
use barlow_core::device::Units;
use barlow_core::model::Layer;
use barlow_core::ops::precision::Precision;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Train image encoders without labels, with Barlow Twins, on any GPU or on the CPU.
#[derive(Debug, Parser)]
#[command(name = "barlow", version, max_term_width = 100)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The program's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train an encoder on pictures: the built-in emoji, or any folder
    Train(Train),
    /// Evaluate a run's encoder, compared with raw pixels and an untrained encoder
    Evaluate(Evaluate),
    /// List the adapters, and the one that `train` would use
    Devices,
    /// Time each operation of a training step, compared with burn's own and with the device's limits
    Bench(Bench),
    /// Inspect a data set, or measure how fast it is read
    #[command(subcommand)]
    Data(DataCommand),
    /// Make a run from PyTorch weights: torchvision's ResNets, or the official Barlow Twins files
    Import(Import),
    /// Write a run's networks for PyTorch (.safetensors) or for any ONNX runtime (.onnx)
    Export(Export),
    /// Write the features of pictures to a file
    Embed(Embed),
    /// Find the pictures that are most similar to a given one
    Search(Search),
    /// Find near-duplicate pictures
    Duplicates(Duplicates),
    /// Draw a map of all pictures into a page, similar ones beside each other
    Map(Map),
    /// Classify pictures by a few labelled examples
    Classify(Classify),
    /// Open the lab in a window, to train interactively or to follow a run
    Lab(Lab),
}

/// `barlow train`
#[derive(Debug, Args)]
pub struct Train {
    /// A folder of pictures, searched at any depth; class folders (and train/ and test/ above them) are used for
    /// evaluation only. Also a tar archive, a list of files, or the files of CIFAR, STL-10 or MNIST [default: the
    /// built-in emoji]
    pub folder: Option<PathBuf>,
    /// Recipe to start from [default: emoji without a folder, photos with one]
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Configuration file to start from instead of a recipe, such as a run's config.toml
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    pub config: Option<PathBuf>,
    /// Weights to begin a new run with instead of random ones: the folder of a run, or a ResNet that PyTorch wrote (.pth,
    /// .safetensors); they decide what the encoder is
    #[arg(long, value_name = "WEIGHTS")]
    pub init: Option<PathBuf>,
    /// Take the projector of --init too
    #[arg(long, requires = "init")]
    pub init_projector: bool,
    /// Resume this run from its last checkpoint; `auto` resumes the run that the other arguments name, or starts it
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// Folder to keep the run in [default: runs/NAME-NUMBER]
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Where to compute: auto (a GPU if there is one), cpu, gpu, or an adapter's number from `barlow devices`; several, such as
    /// 0,1, share every batch out
    #[arg(long, default_value = "auto")]
    pub device: Devices,
    /// Number of passes over the pictures [default: the recipe's; with photos, more for fewer pictures]
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Minutes that the whole command may take, from reading the pictures to the evaluation at the end, instead of a number
    /// of epochs; pauses between a stop and --resume do not count
    #[arg(long, conflicts_with = "epochs", value_parser = minutes)]
    pub minutes: Option<f64>,
    /// Pictures per step [default: the recipe's; with photos, at most half of the pictures]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Weight of the redundancy term of the loss
    #[arg(long, allow_negative_numbers = true)]
    pub lambda: Option<f64>,
    /// Seed of all random numbers of the run
    #[arg(long)]
    pub seed: Option<u64>,
    /// Override any setting of config.toml, such as `projector.widths=[512,512]` or `augmentation.view_a.blur=0.5`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Report the memory that the run needs, time three steps to estimate how long it takes, and keep nothing
    #[arg(long, conflicts_with = "resume")]
    pub plan: bool,
    /// Time the tiles of the GPU's products again; otherwise this happens once per GPU, driver and settings
    #[arg(long)]
    pub tune: bool,
    /// Device memory to plan for, in GiB, such as another device's [default: what is available]
    #[arg(long, value_name = "GIB", value_parser = gibibytes)]
    pub memory: Option<f64>,
}

/// `barlow evaluate`
#[derive(Debug, Args)]
pub struct Evaluate {
    /// The run's folder
    pub run: PathBuf,
    /// Data set to evaluate on [default: the run's own]
    pub path: Option<PathBuf>,
    /// Run a published protocol instead of the usual table; may be given several times: linear-official, linear-solo,
    /// knn-solo, knn-lightly, semi-1, semi-10
    #[arg(long, value_name = "NAME", value_parser = protocol)]
    pub protocol: Vec<String>,
    /// Epochs of each protocol, instead of the published number
    #[arg(long, requires = "protocol")]
    pub epochs: Option<usize>,
    /// File that lists the pictures whose labels semi-1 and semi-10 learn from, one name per line, such as SimCLR's
    /// 1percent.txt [default: drawn by the run's seed]
    #[arg(long, value_name = "LIST", requires = "protocol")]
    pub labelled: Option<PathBuf>,
    /// Pixels per side that pictures are resized to before the center crop [default: the run's data.side; 256 for views
    /// of 224]
    #[arg(long, requires = "protocol")]
    pub side: Option<usize>,
    /// Use the checkpoint with the best evaluation instead of the last one
    #[arg(long)]
    pub best: bool,
    /// Where to compute: auto (a GPU if there is one), cpu, gpu, or an adapter's number from `barlow devices`
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Number of neighbors in kNN
    #[arg(long, default_value_t = 20, conflicts_with = "protocol")]
    pub neighbors: usize,
    /// Temperature of the votes in kNN
    #[arg(long, default_value_t = 0.07, conflicts_with = "protocol")]
    pub temperature: f64,
    /// Evaluate as during the run, on the pictures that are for validation: to choose settings without the test part
    #[arg(long, conflicts_with = "protocol")]
    pub validation: bool,
    /// Evaluate another layer than the encoder's last one: layer1 and so on, projector1 and so on, or all of them
    #[arg(long, value_name = "LAYER", value_parser = layers, conflicts_with = "protocol")]
    pub layer: Option<Layers>,
    /// How features are compared
    #[command(flatten)]
    pub comparison: ComparisonChoice,
    /// Print the metrics as JSON
    #[arg(long)]
    pub json: bool,
}

/// The layers that `--layer` names.
#[derive(Debug, Clone, Copy)]
pub enum Layers {
    /// All.
    All,
    /// One.
    One(Layer),
}

fn layers(text: &str) -> Result<Layers, String> {
    match text {
        "all" => Ok(Layers::All),
        name => name
            .parse()
            .map(Layers::One)
            .map_err(|error: String| format!("{error}, or all")),
    }
}

/// How features are compared, instead of as the run's settings say.
#[derive(Debug, Clone, Args)]
pub struct ComparisonChoice {
    /// Whiten the features with this ridge, a fraction of their mean variance such as 0.1, before they are compared; `none` does
    /// not [default: as the run's comparison.whitening says]
    #[arg(long, value_name = "RIDGE", value_parser = ridge, conflicts_with = "protocol")]
    pub whiten: Option<Ridge>,
    /// Compare with the mirror image of each picture too; the nearer one counts [default: as the run's comparison.mirrored
    /// says]
    #[arg(long, value_name = "BOOL", conflicts_with = "protocol")]
    pub mirrored: Option<bool>,
    /// Compare the outputs of these layers together, such as layer1,layer2,layer3,projector1 [default: as the run's
    /// comparison.layers says]
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', conflicts_with_all = ["protocol", "layer"])]
    pub layers: Option<Vec<Layer>>,
}

/// The ridge of a whitening, or none.
#[derive(Debug, Clone, Copy)]
pub struct Ridge(pub Option<f64>);

fn ridge(text: &str) -> Result<Ridge, String> {
    match text.parse() {
        _ if text == "none" => Ok(Ridge(None)),
        Ok(ridge) if (0.0..=1e6).contains(&ridge) => Ok(Ridge(Some(ridge))),
        _ => Err("expected a number, 0 or more, such as 0.1, or none".into()),
    }
}

impl ComparisonChoice {
    /// Changes the settings of a run.
    pub fn apply(&self, config: &mut Config) {
        if let Some(Ridge(ridge)) = self.whiten {
            config.comparison.whitening = ridge;
        }
        if let Some(mirrored) = self.mirrored {
            config.comparison.mirrored = mirrored;
        }
        if let Some(layers) = &self.layers {
            config.comparison.layers.clone_from(layers);
        }
    }
}

fn units(text: &str) -> Result<Units, String> {
    let numbers = text.split_once('x').and_then(|(size, subgroup)| {
        let (size, subgroup) = (size.parse().ok()?, subgroup.parse().ok()?);
        Some(Units::new(size, subgroup))
    });
    numbers
        .filter(|units| matches!((units.size, units.subgroup), (16, 16 | 32 | 64) | (8, 8 | 16 | 32)))
        .ok_or_else(|| {
            format!(
                "{text} is not the size of units, x, and the threads of a subgroup: 16x16, 16x32, 16x64, 8x8, 8x16 or 8x32"
            )
        })
}

fn protocol(name: &str) -> Result<String, String> {
    if barlow_core::evaluate::Protocol::named(name).is_some() {
        return Ok(name.to_owned());
    }
    let known =
        barlow_core::evaluate::Protocol::KNOWN.map(|(name, what)| format!("{name}: {what}"));
    Err(format!("the protocols are\n  {}", known.join("\n  ")))
}

/// `barlow data`
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Report what is in a data set (counts, sizes, classes, unreadable files), and draw a contact sheet
    Inspect(Inspect),
    /// Measure how many pictures per second are read
    Speed(Speed),
}

/// `barlow data inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// Data set: a folder, a tar archive, a list of files, or the files of CIFAR, STL-10 or MNIST
    pub path: PathBuf,
    /// File to write the contact sheet to
    #[arg(long, value_name = "FILE", default_value = "contact-sheet.png")]
    pub sheet: Option<PathBuf>,
    /// Pixels per side that pictures are resized to for the fingerprint
    #[arg(long, default_value_t = 32)]
    pub side: usize,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// `barlow data speed`
#[derive(Debug, Args)]
pub struct Speed {
    /// Data set: a folder, a tar archive, a list of files, or the files of CIFAR, STL-10 or MNIST
    pub path: PathBuf,
    /// Pixels per side that pictures are resized to
    #[arg(long, default_value_t = 32)]
    pub side: usize,
    /// Random crops to cut from each whole picture, as training on photographs does [default: only its middle square]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub views: usize,
    /// Pictures per batch
    #[arg(long, default_value_t = 256)]
    pub batch: usize,
    /// Number of decoding threads [default: one per core]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Approximate seconds to measure for
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `barlow import`
#[derive(Debug, Args)]
pub struct Import {
    /// File to import: .pth or .safetensors
    pub file: PathBuf,
    /// Folder to keep the run in [default: runs/NAME-NUMBER]
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Widths of a new projector, for a file without one, such as 2048,2048,2048
    #[arg(long, value_delimiter = ',', value_name = "WIDTHS")]
    pub projector: Option<Vec<usize>>,
    /// Layers before the residual blocks [default: chosen by the size of the first convolution]
    #[arg(long, value_enum)]
    pub stem: Option<StemChoice>,
    /// Padding of the first convolution, which files do not record; solo-learn's CIFAR networks use 2 [default: half
    /// the kernel size]
    #[arg(long)]
    pub stem_padding: Option<usize>,
    /// Pixels per side of the encoder's input [default: 224, or 32 with a stem for small pictures]
    #[arg(long)]
    pub size: Option<usize>,
    /// Cells per side of the grid that the last feature map is averaged over
    #[arg(long, default_value_t = 1)]
    pub pool_grid: usize,
}

/// The stems that `--stem` can name.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum StemChoice {
    /// 7x7 with stride 2, then max pooling
    Imagenet,
    /// 3x3 with stride 1
    Cifar,
    /// 3x3 with stride 2
    Small,
}

impl From<StemChoice> for barlow_core::model::Stem {
    fn from(choice: StemChoice) -> Self {
        match choice {
            StemChoice::Imagenet => Self::ImageNet,
            StemChoice::Cifar => Self::Cifar,
            StemChoice::Small => Self::Small,
        }
    }
}

/// `barlow export`
#[derive(Debug, Args)]
pub struct Export {
    /// The run's folder
    pub run: PathBuf,
    /// File to write: .safetensors or .onnx; or a folder, which gets the layout of Hugging Face's hub, with a model card
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
    /// Export the projector too
    #[arg(long)]
    pub projector: bool,
    /// Let an .onnx file have these outputs too: layer1 and so on are feature maps, projector1 and so on numbers
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    pub layer: Vec<Layer>,
    /// Use the checkpoint with the best evaluation instead of the last one
    #[arg(long)]
    pub best: bool,
}

/// `barlow embed`
#[derive(Debug, Args)]
pub struct Embed {
    /// The run's folder
    pub run: PathBuf,
    /// Pictures to embed: a folder, an archive, a list, or a data set's files
    pub path: PathBuf,
    /// File to write: .parquet, .csv, .npy or .safetensors
    #[arg(long, value_name = "FILE", default_value = "features.parquet")]
    pub to: PathBuf,
    /// Write the projector's embeddings instead of the encoder's features
    #[arg(long, conflicts_with = "layer")]
    pub embeddings: bool,
    /// Write the output of another layer: layer1 and so on, or projector1 and so on
    #[arg(long, value_name = "LAYER")]
    pub layer: Option<Layer>,
    /// Write feature maps, [channels, rows, columns] for each picture, instead of their means
    #[arg(long, conflicts_with = "embeddings")]
    pub maps: bool,
    /// Use the checkpoint with the best evaluation instead of the last one
    #[arg(long)]
    pub best: bool,
    /// Where to compute: auto (a GPU if there is one), cpu, gpu, or an adapter's number from `barlow devices`
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// `barlow search`
#[derive(Debug, Args)]
pub struct Search {
    /// The run's folder
    pub run: PathBuf,
    /// Pictures to search: a folder, an archive, a list, or a data set's files
    pub path: PathBuf,
    /// Picture to compare with
    #[arg(long, value_name = "PICTURE")]
    pub like: PathBuf,
    /// Number of pictures to list
    #[arg(long, default_value_t = 12)]
    pub count: usize,
    /// Draw the pictures found too, as a contact sheet (.png) or as a page (.html)
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
    /// Use the checkpoint with the best evaluation instead of the last one
    #[arg(long)]
    pub best: bool,
    /// Where to compute: auto (a GPU if there is one), cpu, gpu, or an adapter's number from `barlow devices`
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// `barlow duplicates`
#[derive(Debug, Args)]
pub struct Duplicates {
    /// The run's folder
    pub run: PathBuf,
    /// Pictures to search: a folder, an archive, a list, or a data set's files
    pub path: PathBuf,
    /// Minimum cosine similarity of the features of near-duplicates
    #[arg(long, default_value_t = 0.95, allow_negative_numbers = true)]
    pub threshold: f32,
    /// Draw the pictures found too, as a contact sheet (.png) or as a page (.html)
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Print the groups as JSON
    #[arg(long)]
    pub json: bool,
    /// Use the checkpoint with the best evaluation instead of the last one
    #[arg(long)]
    pub best: bool,
    /// Where to compute: auto (a GPU if there is one), cpu, gpu, or an adapter's number from `barlow devices`
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// `barlow map`
#[derive(Debug, Args)]
pub struct Map {
    /// The run's folder
    pub run: PathBuf,
    /// Pictures to show: a folder, an archive, a list, or a data set's files
    pub path: PathBuf,
    /// Page to write (.html); it needs no other file
    #[arg(long, value_name = "FILE", default_value = "map.html")]
    pub to: PathBuf,
    /// Maximum number of pictures; if there are more, this many are chosen, evenly spread
    #[arg(long, default_value_t = 5000, value_parser = count)]
    pub count: usize,
    /// Use the checkpoint with the best evaluation instead of the last one
    #[arg(long)]
    pub best: bool,
    /// Where to compute: auto (a GPU if there is one), cpu, gpu, or an adapter's number from `barlow devices`
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// `barlow classify`
#[derive(Debug, Args)]
pub struct Classify {
    /// The run's folder
    pub run: PathBuf,
    /// Pictures to classify: a folder, an archive, a list, or a data set's files
    pub path: PathBuf,
    /// Labelled examples: a folder with a folder of pictures for each class
    #[arg(long, value_name = "FOLDER")]
    pub labels: PathBuf,
    /// What decides: the nearest examples, or a linear classifier that is trained on them
    #[arg(long, value_enum, default_value_t = Head::Knn)]
    pub head: Head,
    /// Number of the nearest examples that vote
    #[arg(long, default_value_t = 5, value_parser = count)]
    pub neighbors: usize,
    /// Table to write (.csv): name, class, confidence, and the score of each class [default: print the classes]
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Use the checkpoint with the best evaluation instead of the last one
    #[arg(long)]
    pub best: bool,
    /// Where to compute: auto (a GPU if there is one), cpu, gpu, or an adapter's number from `barlow devices`
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// What decides on a picture's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Head {
    /// The nearest examples vote
    Knn,
    /// A linear classifier
    Linear,
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("expected a number, 1 or more".into()),
    }
}

/// `barlow bench`
#[derive(Debug, Args)]
pub struct Bench {
    /// Recipe whose step to measure
    #[arg(long, value_enum, default_value_t = Preset::Emoji)]
    pub preset: Preset,
    /// Pictures per step [default: the recipe's]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Override any setting of config.toml, such as `encoder.width=8`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Precision of activations and of the numbers that products multiply; burn's own operations always use 32 bits
    #[arg(long, value_enum, default_value_t = PrecisionChoice::F32)]
    pub precision: PrecisionChoice,
    /// Where to compute: auto (a GPU if there is one), cpu, gpu, or an adapter's number from `barlow devices`; several for
    /// --ranks
    #[arg(long, default_value = "auto")]
    pub device: Devices,
    /// Measure what the ranks of a step exchange: those of --device or of MPI, beside the model's numbers. With numbers, such
    /// as 8,64, print what so many ranks would exchange
    #[arg(long, value_name = "NUMBERS", num_args = 0..=1, value_delimiter = ',', value_parser = rank_number)]
    pub ranks: Option<Vec<usize>>,
    /// Gigabits per second of the networks for --ranks on paper
    #[arg(long, value_delimiter = ',', default_value = "10,25,100", value_parser = positive)]
    pub gigabits: Vec<f64>,
    /// Milliseconds that a rank computes in a step, for the efficiency in --ranks on paper
    #[arg(long, value_name = "MS", value_parser = positive)]
    pub computing_ms: Option<f64>,
    /// Approximate seconds to repeat each operation for
    #[arg(long, default_value_t = 0.3, value_parser = seconds)]
    pub seconds: f64,
    /// Time the tiles of the GPU's products first, and use the fastest
    #[arg(long)]
    pub tune: bool,
    /// Skip burn's own operations, which may spend minutes on tuning before their first step
    #[arg(long)]
    pub no_burn: bool,
    /// Instead of timing, write every variant of a kernel that a step launches on a GPU into this folder, and report what
    /// the step moves and holds. No such GPU is needed: the kernels do not run
    #[arg(long, value_name = "FOLDER")]
    pub kernels: Option<PathBuf>,
    /// Size of the GPU's matrix units and threads of its subgroups, such as 16x64, for --kernels with --precision f16
    /// [default: no matrix units]
    #[arg(long, value_name = "SIZExTHREADS", requires = "kernels", value_parser = units)]
    pub units: Option<Units>,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// `barlow lab`
#[derive(Debug, Args)]
pub struct Lab {
    /// Folder of a run to follow, also while it trains [default: train in the lab itself]
    pub run: Option<PathBuf>,
    /// Where to compute what is shown of the run: auto (a GPU if there is one), cpu, gpu, or an adapter's number from
    /// `barlow devices`
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// The recipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// The built-in emoji: minutes on two cores
    Emoji,
    /// CIFAR-10: twenty minutes on two cores
    Cifar10,
    /// Photographs, at 64x64 pixels
    Photos,
    /// The paper's ImageNet run: ResNet-50, batch 2048, 1000 epochs
    Paper,
    /// solo-learn's CIFAR-10: ResNet-18, LARS, 1000 epochs
    SoloCifar10,
    /// solo-learn's CIFAR-100
    SoloCifar100,
    /// lightly's CIFAR-10: ResNet-18, SGD, 200 epochs
    LightlyCifar10,
    /// lightly's Imagenette at 128 pixels, 800 epochs
    LightlyImagenette,
}

/// The precisions that `--precision` can name.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum PrecisionChoice {
    /// 32 bits
    F32,
    /// 16 bits, with sums in 32 bits
    F16,
}

impl From<PrecisionChoice> for Precision {
    fn from(choice: PrecisionChoice) -> Self {
        match choice {
            PrecisionChoice::F32 => Self::F32,
            PrecisionChoice::F16 => Self::F16,
        }
    }
}

fn gibibytes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(gibibytes) if (0.001..=1e6).contains(&gibibytes) => Ok(gibibytes),
        _ => Err("expected a number of GiB, such as 24".into()),
    }
}

fn rank_number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(ranks) if (2..=65_536).contains(&ranks) => Ok(ranks),
        _ => Err("expected a number of ranks, from 2 to 65536".into()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("expected a number above 0".into()),
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    positive(text).map_err(|_| "expected a number of minutes, such as 10 or 0.5".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds, from 0 to 3600".into()),
    }
}

impl Preset {
    /// The recipe's settings.
    pub fn config(self) -> Config {
        match self {
            Self::Emoji => Config::emoji(),
            Self::Cifar10 => Config::cifar10(),
            Self::Photos => Config::photos(),
            Self::Paper => Config::paper(),
            Self::SoloCifar10 => Config::solo_cifar10(),
            Self::SoloCifar100 => Config::solo_cifar100(),
            Self::LightlyCifar10 => Config::lightly_cifar10(),
            Self::LightlyImagenette => Config::lightly_imagenette(),
        }
    }

    /// The recipe's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emoji => "emoji",
            Self::Cifar10 => "cifar10",
            Self::Photos => "photos",
            Self::Paper => "paper",
            Self::SoloCifar10 => "solo-cifar10",
            Self::SoloCifar100 => "solo-cifar100",
            Self::LightlyCifar10 => "lightly-cifar10",
            Self::LightlyImagenette => "lightly-imagenette",
        }
    }
}

/// The device to compute on, as `--device` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU; an error if there is none.
    Gpu,
    /// The adapter with this number.
    Number(usize),
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Gpu => write!(f, "gpu"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu),
            number => number
                .parse()
                .map(Self::Number)
                .map_err(|_| "expected auto, cpu, gpu, or a number from `barlow devices`".into()),
        }
    }
}

/// The devices that a run is shared out to, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices(pub Vec<DeviceChoice>);

impl std::fmt::Display for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.0.iter().map(DeviceChoice::to_string).collect();
        write!(f, "{}", names.join(","))
    }
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let devices = text.split(',').map(str::parse);
        devices.collect::<Result<_, _>>().map(Self)
    }
}
