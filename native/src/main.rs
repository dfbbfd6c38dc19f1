//! `barlow`: train image encoders without labels, on any GPU or on the CPU.

fn main() -> std::process::ExitCode {
    barlow::main()
}
