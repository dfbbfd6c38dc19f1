//! The trainer as a WebAssembly module, for the page's worker: what trains, and nothing that draws. A visitor sees the page before this
//! has arrived.

#[cfg(target_family = "wasm")]
fn main() {
    barlow_lab::platform::run_constructors();
    barlow_lab::link::start();
}

#[cfg(not(target_family = "wasm"))]
fn main() {
    eprintln!("this program runs in browsers only: on the desktop, run `barlow lab`");
}
