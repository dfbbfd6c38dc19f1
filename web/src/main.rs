//! The lab in a browser: the same module is the page's and, in a worker, the trainer's.

#[cfg(target_family = "wasm")]
fn main() {
    unsafe extern "C" {
        /// The linker's: runs what is to run before the program, here the registrations of burn's dependencies.
        fn __wasm_call_ctors();
    }
    // SAFETY: called once, at the start of the instance. Where nobody calls it, the linker wraps every exported function in
    // a call of it, those for each value that comes from the page among them: a frame then took 200 ms, and a step on the
    // GPU several times as long.
    unsafe { __wasm_call_ctors() };
    barlow_lab::browser::start();
}

#[cfg(not(target_family = "wasm"))]
fn main() {
    eprintln!("this is the part for browsers: on the desktop the lab is `barlow lab`");
}
