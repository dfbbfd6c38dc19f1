//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use barlow_core::config::Config;
use barlow_core::ops::precision::Precision;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Train image encoders without labels, by Barlow Twins, on any GPU or none.
#[derive(Debug, Parser)]
#[command(name = "barlow", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Learn from pictures: the emoji in the box, or any folder
    Train(Train),
    /// Measure what a run has learned, beside raw pixels and an untrained encoder
    Evaluate(Evaluate),
    /// List the adapters, and which one `train` would take
    Devices,
    /// Measure each operation of a training step beside burn's own, and beside what the device can do
    Bench(Bench),
    /// Look into a data set: what was found in it, and how fast it is read
    #[command(subcommand)]
    Data(DataCommand),
    /// Make a run of weights that PyTorch wrote: torchvision's ResNets, the official Barlow Twins files
    Import(Import),
    /// Write a run's networks for PyTorch (.safetensors) or for any runtime (.onnx)
    Export(Export),
    /// Write the features of pictures to a file
    Embed(Embed),
    /// Find the pictures that are most like one
    Search(Search),
    /// Find pictures that are nearly the same
    Duplicates(Duplicates),
    /// Open the lab in a window: train before your eyes, or follow a run
    Lab(Lab),
}

/// `barlow train`
#[derive(Debug, Args)]
pub struct Train {
    /// A folder of pictures, at any depth; class folders (and train/ and test/ above them) are used for evaluation only.
    /// Also a tar archive, a list of files, or the files of CIFAR, STL-10 or MNIST
    /// [default: the emoji in the box]
    pub folder: Option<PathBuf>,
    /// The recipe to start from [default: emoji without a folder, photos with one]
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// A configuration file, such as a run's config.toml, instead of a recipe
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    pub config: Option<PathBuf>,
    /// Go on with this run from its last checkpoint; `auto` goes on with the one that the other arguments name, or begins it
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// The folder to keep the run in [default: runs/NAME-NUMBER]
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// auto (a GPU if there is one), cpu, gpu, or an adapter's number
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// How often every picture is seen
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Pictures in a step
    #[arg(long)]
    pub batch: Option<usize>,
    /// Weight of the redundancy term
    #[arg(long, allow_negative_numbers = true)]
    pub lambda: Option<f64>,
    /// Determines every random number of the run
    #[arg(long)]
    pub seed: Option<u64>,
    /// Any setting of config.toml, such as `projector.widths=[512,512]` or `augmentation.view_a.blur=0.5`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Say what the run needs, do three steps to tell how long it takes, and keep nothing
    #[arg(long, conflicts_with = "resume")]
    pub plan: bool,
    /// Gigabytes of memory that the run may take on the device, or that another one has [default: what there is]
    #[arg(long, value_name = "GIB", value_parser = gibibytes)]
    pub memory: Option<f64>,
}

/// `barlow evaluate`
#[derive(Debug, Args)]
pub struct Evaluate {
    /// The run's folder
    pub run: PathBuf,
    /// A data set to measure on [default: the run's own]
    pub path: Option<PathBuf>,
    /// A published protocol instead of the table; may be given several times: linear-official, linear-solo, knn-solo,
    /// knn-lightly, semi-1, semi-10
    #[arg(long, value_name = "NAME", value_parser = protocol)]
    pub protocol: Vec<String>,
    /// Epochs of the protocols, in place of their own
    #[arg(long, requires = "protocol")]
    pub epochs: Option<usize>,
    /// A list of the pictures whose labels semi-1 and semi-10 learn from, a name per line (SimCLR's 1percent.txt, say), in
    /// place of a draw by the run's seed
    #[arg(long, value_name = "LIST", requires = "protocol")]
    pub labelled: Option<PathBuf>,
    /// Pixels per side that pictures are resized to before their middle is seen [default: the run's data.side; 256 for views
    /// of 224]
    #[arg(long, requires = "protocol")]
    pub side: Option<usize>,
    /// The checkpoint whose evaluation was the best, instead of the last
    #[arg(long)]
    pub best: bool,
    /// auto (a GPU if there is one), cpu, gpu, or an adapter's number
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Neighbors that vote in kNN
    #[arg(long, default_value_t = 20, conflicts_with = "protocol")]
    pub neighbors: usize,
    /// Temperature of the votes in kNN
    #[arg(long, default_value_t = 0.07, conflicts_with = "protocol")]
    pub temperature: f64,
    /// Print the figures as JSON
    #[arg(long)]
    pub json: bool,
}

fn protocol(name: &str) -> Result<String, String> {
    if barlow_core::evaluate::Protocol::named(name).is_some() {
        return Ok(name.to_owned());
    }
    let known =
        barlow_core::evaluate::Protocol::KNOWN.map(|(name, what)| format!("{name}: {what}"));
    Err(format!("known are\n  {}", known.join("\n  ")))
}

/// `barlow data`
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Say what is in a data set: counts, sizes, classes, unreadable files, and a contact sheet
    Inspect(Inspect),
    /// Measure how many pictures a second are read
    Speed(Speed),
}

/// `barlow data inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// A folder, a tar archive, a list of files, or the files of CIFAR, STL-10 or MNIST
    pub path: PathBuf,
    /// Where to draw the contact sheet
    #[arg(long, value_name = "FILE", default_value = "contact-sheet.png")]
    pub sheet: Option<PathBuf>,
    /// Pixels a side at which pictures are compared for the fingerprint
    #[arg(long, default_value_t = 32)]
    pub side: usize,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// `barlow data speed`
#[derive(Debug, Args)]
pub struct Speed {
    /// A data set
    pub path: PathBuf,
    /// Pixels a side that pictures are made
    #[arg(long, default_value_t = 32)]
    pub side: usize,
    /// Random crops that are cut from each whole picture, as training on photographs does [default: its middle square]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub views: usize,
    /// Pictures that are handed out at once
    #[arg(long, default_value_t = 256)]
    pub batch: usize,
    /// Threads that decode [default: one a core]
    #[arg(long)]
    pub threads: Option<usize>,
    /// About how long to measure
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// Print an object
    #[arg(long)]
    pub json: bool,
}

/// `barlow import`
#[derive(Debug, Args)]
pub struct Import {
    /// A .pth or a .safetensors
    pub file: PathBuf,
    /// The folder to keep the run in [default: runs/NAME-NUMBER]
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Layers of the projector behind an encoder that comes without one
    #[arg(long, value_delimiter = ',', value_name = "WIDTHS")]
    pub projector: Option<Vec<usize>>,
    /// What stands before the blocks [default: by the first convolution's size]
    #[arg(long, value_enum)]
    pub stem: Option<StemChoice>,
    /// Zeros around a picture for the first convolution, which no file tells; solo-learn's networks for CIFAR have 2
    /// [default: half its kernel]
    #[arg(long)]
    pub stem_padding: Option<usize>,
    /// Pixels a side of what the encoder sees [default: 224, or 32 with a stem for small pictures]
    #[arg(long)]
    pub size: Option<usize>,
}

/// A stem, as the command line calls it.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum StemChoice {
    /// 7x7 with stride 2, and pooling
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
    /// The file to write: .safetensors or .onnx
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// The projector too
    #[arg(long)]
    pub projector: bool,
    /// The checkpoint whose evaluation was the best, instead of the last
    #[arg(long)]
    pub best: bool,
}

/// `barlow embed`
#[derive(Debug, Args)]
pub struct Embed {
    /// The run's folder
    pub run: PathBuf,
    /// The pictures: a folder, an archive, a list, or a data set's files
    pub path: PathBuf,
    /// The file to write: .parquet, .npy or .safetensors
    #[arg(long, value_name = "FILE", default_value = "features.parquet")]
    pub to: PathBuf,
    /// What the projector makes of the features, instead of these
    #[arg(long)]
    pub embeddings: bool,
    /// The checkpoint whose evaluation was the best, instead of the last
    #[arg(long)]
    pub best: bool,
    /// auto (a GPU if there is one), cpu, gpu, or an adapter's number
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// `barlow search`
#[derive(Debug, Args)]
pub struct Search {
    /// The run's folder
    pub run: PathBuf,
    /// Where to look: a folder, an archive, a list, or a data set's files
    pub path: PathBuf,
    /// The picture to look for
    #[arg(long, value_name = "PICTURE")]
    pub like: PathBuf,
    /// How many to list
    #[arg(long, default_value_t = 12)]
    pub count: usize,
    /// Show them too: a contact sheet (.png) or a page (.html)
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Print the list as JSON
    #[arg(long)]
    pub json: bool,
    /// The checkpoint whose evaluation was the best, instead of the last
    #[arg(long)]
    pub best: bool,
    /// auto (a GPU if there is one), cpu, gpu, or an adapter's number
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// `barlow duplicates`
#[derive(Debug, Args)]
pub struct Duplicates {
    /// The run's folder
    pub run: PathBuf,
    /// Where to look: a folder, an archive, a list, or a data set's files
    pub path: PathBuf,
    /// The least cosine of features that are nearly the same
    #[arg(long, default_value_t = 0.95, allow_negative_numbers = true)]
    pub threshold: f32,
    /// Show them too: a contact sheet (.png) or a page (.html)
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Print the groups as JSON
    #[arg(long)]
    pub json: bool,
    /// The checkpoint whose evaluation was the best, instead of the last
    #[arg(long)]
    pub best: bool,
    /// auto (a GPU if there is one), cpu, gpu, or an adapter's number
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// `barlow bench`
#[derive(Debug, Args)]
pub struct Bench {
    /// The recipe whose step is measured
    #[arg(long, value_enum, default_value_t = Preset::Emoji)]
    pub preset: Preset,
    /// Pictures in a step [default: the recipe's]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Any setting of config.toml, such as `encoder.width=8`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// How wide the numbers are that products multiply; burn's are 32 bits wide either way
    #[arg(long, value_enum, default_value_t = PrecisionChoice::F32)]
    pub precision: PrecisionChoice,
    /// auto (a GPU if there is one), cpu, gpu, or an adapter's number
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// About how long each operation is repeated
    #[arg(long, default_value_t = 0.3, value_parser = seconds)]
    pub seconds: f64,
    /// Leave out burn's own operations, which may be tuned for minutes before their first step
    #[arg(long)]
    pub no_burn: bool,
    /// Print an object a line
    #[arg(long)]
    pub json: bool,
}

/// `barlow lab`
#[derive(Debug, Args)]
pub struct Lab {
    /// A run's folder to look into, also while it trains [default: train in the lab itself]
    pub run: Option<PathBuf>,
    /// Where to compute what is shown of the run: auto (a GPU if there is one), cpu, gpu, or an adapter's number
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// The recipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// The emoji in the box: minutes on two cores
    Emoji,
    /// CIFAR-10: half an hour on two cores
    Cifar10,
    /// Photographs, seen at 64 pixels
    Photos,
    /// The paper's run on ImageNet: ResNet-50, batch 2048, 1000 epochs
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

/// A precision, as the command line calls it.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum PrecisionChoice {
    /// 32 bits
    F32,
    /// 16 bits, and sums of 32
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
        _ => Err("expected gigabytes, such as 24".into()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, from 0 to 3600".into()),
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

    /// What the command line calls it.
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

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, or an error.
    Gpu,
    /// The adapter of this number.
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
