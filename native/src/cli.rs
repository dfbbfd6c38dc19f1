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
}

/// `barlow evaluate`
#[derive(Debug, Args)]
pub struct Evaluate {
    /// The run's folder
    pub run: PathBuf,
    /// auto (a GPU if there is one), cpu, gpu, or an adapter's number
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Neighbors that vote in kNN
    #[arg(long, default_value_t = 20)]
    pub neighbors: usize,
    /// Temperature of the votes in kNN
    #[arg(long, default_value_t = 0.07)]
    pub temperature: f64,
    /// Print the figures as JSON
    #[arg(long)]
    pub json: bool,
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
    /// The paper's settings (ResNet-50, batch 2048, 1000 epochs), for a set that fits in memory
    Paper,
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
            Self::Paper => Config::default(),
        }
    }

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emoji => "emoji",
            Self::Cifar10 => "cifar10",
            Self::Photos => "photos",
            Self::Paper => "paper",
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
