//! Compiles the API and the record formats with protox, so that no system protoc is needed.
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "google/longrunning/operations.proto",
        "google/rpc/status.proto",
        "google/rpc/error_details.proto",
        "google/type/money.proto",
        "syp/v1/types.proto",
        "syp/v1/instances.proto",
        "syp/v1/services.proto",
        "syp/journal/v1/journal.proto",
    ];
    for dir in ["google", "syp"] {
        println!("cargo:rerun-if-changed={dir}");
    }
    let fds = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(&out, prost::Message::encode_to_vec(&fds))?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // a message has one encoding: requests are compared by its hash
    config.btree_map(["."]);
    tonic_prost_build::configure()
        .compile_well_known_types(false)
        .emit_rerun_if_changed(false)
        .include_file("all.rs")
        .compile_fds_with_config(fds, config)?;
    Ok(())
}
