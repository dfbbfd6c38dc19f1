//! The lab's page as a WebAssembly module for browsers: what draws. The trainer is a module of its own (`bin/trainer.rs`).

#[cfg(target_family = "wasm")]
fn main() {
    barlow_lab::platform::run_constructors();
    barlow_lab::browser::start();
}

#[cfg(not(target_family = "wasm"))]
fn main() {
    eprintln!("this program runs in browsers only: on the desktop, run `barlow lab`");
}
