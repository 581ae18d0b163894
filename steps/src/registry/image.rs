//! The gate's image as a registry keeps it: one layer, a config and a manifest, without a time or a name of this machine.
use super::elf;
use crate::{docker, k8s::names::PROGRAM};
use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{io::Write, path::Path};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// What a manifest is.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// What belongs beside the gate's program in every failure.
const BUILD: &str = "install the 'syp-gate' of this version beside 'sypctl' (./quickstart builds both), or name one with SYP_GATE";

/// All of it.
#[derive(Debug)]
pub struct Image {
    pub(super) layer: Bytes,
    pub(super) config: Bytes,
    pub(super) manifest: Bytes,
    architecture: &'static str,
}

// === impl Image ===

impl Image {
    /// Of a gate's binary.
    ///
    /// # Errors
    /// `GATE_BINARY`: it is not there, or not a static program for Linux.
    pub fn read(binary: &Path) -> Result<Self, Failure> {
        let wrong = |why: String| {
            failure(Class::Terminal, "GATE_BINARY", format!("{}: {why}", binary.display()), BUILD)
        };
        let bytes = std::fs::read(binary).map_err(|e| wrong(e.to_string()))?;
        let program = elf::program(&bytes)
            .ok_or_else(|| wrong("it is no program for Linux on amd64 or arm64".to_owned()))?;
        if !program.is_static {
            return Err(wrong("it is not static, and the gate's image has no libraries".to_owned()));
        }
        Self::made(&bytes, program.architecture).map_err(|e| wrong(e.to_string()))
    }

    fn made(binary: &[u8], architecture: &'static str) -> std::io::Result<Self> {
        let tar = docker::gate_archive(binary)?;
        // a header without time, name and system: the bytes depend on nothing but the binary
        let mut gz =
            GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::default());
        gz.write_all(&tar)?;
        let layer = gz.finish()?;
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Entrypoint": [PROGRAM], "Labels": {docker::GATE_LABEL: "1"}},
            "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "sypctl gate push"}],
        })
        .to_string();
        let part = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part(CONFIG, config.as_bytes()),
            "layers": [part(LAYER, &layer)],
        })
        .to_string();
        Ok(Self { layer: layer.into(), config: config.into(), manifest: manifest.into(), architecture })
    }

    /// What it is known by: the digest of its manifest.
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// Where it runs, as images say it.
    pub fn platform(&self) -> String {
        format!("linux/{}", self.architecture)
    }
}

/// As registries write it.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use serde_json::Value;
    use std::io::Read;

    fn image(binary: &[u8]) -> Image {
        Image::made(binary, "arm64").unwrap()
    }

    #[test]
    fn the_same_binary_is_the_same_image_and_another_is_another() {
        assert_eq!(image(b"gate").digest(), image(b"gate").digest());
        assert_ne!(image(b"gate").digest(), image(b"gate2").digest());
        // whoever changes how it is made gives every cluster a new image: that should be meant
        assert_eq!(
            digest(image(b"gate").config.as_ref()),
            "sha256:c864fa23b5ee155b75e04077af13f457d9021d72efc21043ec262d2e6f260004"
        );
    }

    #[test]
    fn it_holds_the_program_and_places_for_its_files_and_no_time() {
        let i = image(b"gate");
        let mut tar = Vec::new();
        GzDecoder::new(i.layer.as_ref()).read_to_end(&mut tar).unwrap();
        let mut files = Vec::new();
        for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
            let e = entry.unwrap();
            let h = e.header();
            assert_eq!((h.mtime().unwrap(), h.uid().unwrap(), h.gid().unwrap()), (0, 0, 0));
            files.push((e.path().unwrap().display().to_string(), h.mode().unwrap(), h.size().unwrap()));
        }
        let named: Vec<_> = files.iter().map(|f| (f.0.as_str(), f.1, f.2)).collect();
        assert_eq!(
            named,
            [("syp-gate", 0o755, 4), ("etc/", 0o755, 0), ("etc/syp/", 0o755, 0), ("tmp/", 0o755, 0)]
        );
        let config: Value = serde_json::from_slice(&i.config).unwrap();
        assert_eq!((&config["os"], &config["architecture"]), (&json!("linux"), &json!("arm64")));
        assert_eq!(config["config"]["Entrypoint"], json!(["/syp-gate"]));
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&tar)]));
        let manifest: Value = serde_json::from_slice(&i.manifest).unwrap();
        assert_eq!(manifest["config"]["digest"], digest(&i.config));
        assert_eq!(manifest["layers"][0]["digest"], digest(&i.layer));
        assert_eq!(manifest["layers"][0]["size"], i.layer.len());
    }

    #[test]
    fn what_could_not_run_alone_is_refused_with_what_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate");
        let said = || Image::read(&path).map(|i| i.platform()).map_err(|f| (f.reason, f.message));
        let (reason, words) = said().unwrap_err();
        assert!(reason == "GATE_BINARY" && words.contains("No such file"), "{words}");
        for (bytes, want) in
            [(b"#!/bin/sh\n".to_vec(), "no program for Linux"), (elf::made(62, &[3]), "not static")]
        {
            std::fs::write(&path, bytes).unwrap();
            let (reason, words) = said().unwrap_err();
            assert!(reason == "GATE_BINARY" && words.contains(want), "{words}");
        }
        std::fs::write(&path, elf::made(62, &[1])).unwrap();
        assert_eq!(said().unwrap(), "linux/amd64");
    }
}
