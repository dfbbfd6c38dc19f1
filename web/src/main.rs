//! The lab in a browser: the same module is the page's and, in a worker, the trainer's.

#[cfg(target_family = "wasm")]
fn main() {
    barlow_lab::browser::start();
}

#[cfg(not(target_family = "wasm"))]
fn main() {
    eprintln!("this is the part for browsers: on the desktop the lab is `barlow lab`");
}
