//! Compiles `proto/` without `protoc` and keeps the descriptor set for reflection.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: &[&str] = &[
    "aiplatform/inference/v1/cached_answer.proto",
    "aiplatform/inference/v1/inference_service.proto",
    "aiplatform/resilience/v1/circuit_breaker_service.proto",
    "aiplatform/resilience/v1/fallback_chain_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").ok_or("not run by cargo")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("not run by cargo")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let codec = "crate::codec::SmallBufferCodec";
    tonic_prost_build::configure().codec_path(codec).compile_fds(descriptors)?;
    Ok(())
}
