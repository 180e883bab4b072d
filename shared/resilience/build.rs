//! Declares the `loom` cfg, which the model-checked tests switch on, so that a mistyped cfg is still an error.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(loom)");
}
