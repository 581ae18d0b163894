//! Makes the client's code from the published API files; protox stands for protoc.
use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = env::var_os("SYP_PROTO").map_or_else(|| PathBuf::from("../../../proto"), PathBuf::from);
    println!("cargo:rerun-if-env-changed=SYP_PROTO");
    println!("cargo:rerun-if-changed={}", dir.display());
    let files = ["syp/v1/instances.proto", "syp/v1/services.proto", "google/longrunning/operations.proto"];
    let set = protox::compile(files, [dir])?;
    tonic_prost_build::configure().build_server(false).include_file("all.rs").compile_fds(set)?;
    Ok(())
}
