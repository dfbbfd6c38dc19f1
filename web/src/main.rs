//! The lab as a WebAssembly module for browsers. The page and the trainer's worker both load this module.

#[cfg(target_family = "wasm")]
fn main() {
    unsafe extern "C" {
        /// Defined by the linker: runs the static constructors, here the registrations of burn's dependencies.
        fn __wasm_call_ctors();
    }
    // SAFETY: called once, at the start of the instance. If the program does not call it, the linker adds the call to
    // every exported function, including those that run for each value from the page: a frame then took 200 ms, and a
    // step on the GPU several times as long.
    unsafe { __wasm_call_ctors() };
    barlow_lab::browser::start();
}

#[cfg(not(target_family = "wasm"))]
fn main() {
    eprintln!("this program runs in browsers only: on the desktop, run `barlow lab`");
}
