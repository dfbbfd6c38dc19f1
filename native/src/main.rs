//! `barlow`: train image encoders without labels, on any GPU or none.

fn main() -> std::process::ExitCode {
    barlow::main()
}
