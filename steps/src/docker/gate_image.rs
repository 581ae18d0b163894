//! The gate's image, made here from the `syp-gate` binary beside the engine: no registry is asked.
use super::client::{code, failed, optional};
use bollard::{
    Docker,
    query_parameters::{CreateImageOptions, ListImagesOptions, RemoveImageOptions, TagImageOptions},
};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, path::PathBuf};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;
use tokio::sync::Mutex;

/// The program in it.
pub(super) const PROGRAM: &str = "/syp-gate";
/// What our images carry.
pub(crate) const LABEL: &str = "syp.dev/gate";

/// Makes the image once and remembers its name.
#[derive(Debug)]
pub struct GateImage {
    binary: PathBuf,
    made: Mutex<Option<String>>,
}

// === impl GateImage ===

impl GateImage {
    /// From a static binary.
    pub fn new(binary: PathBuf) -> Self {
        Self { binary, made: Mutex::new(None) }
    }

    /// Name of the image, made if it is not there.
    ///
    /// # Errors
    /// `GATE_BINARY` when there is no binary; the daemon's.
    pub async fn ensure(&self, d: &Docker) -> Result<String, Failure> {
        let mut made = self.made.lock().await;
        if let Some(name) = &*made {
            // somebody may have pruned it since
            if optional(d.inspect_image(name).await)?.is_some() {
                return Ok(name.clone());
            }
        }
        let (name, bytes) = self.read().await?;
        if optional(d.inspect_image(&name).await)?.is_none() {
            import(d, &name, &bytes).await?;
        }
        *made = Some(name.clone());
        Ok(name)
    }

    /// Name of the image, made or not.
    ///
    /// # Errors
    /// `GATE_BINARY` when it could not be made.
    pub async fn name(&self) -> Result<String, Failure> {
        self.read().await.map(|(name, _)| name)
    }

    async fn read(&self) -> Result<(String, Vec<u8>), Failure> {
        let bytes = tokio::fs::read(&self.binary).await.map_err(|e| {
            failure(
                Class::Terminal,
                "GATE_BINARY",
                format!("{}: {e}", self.binary.display()),
                "install 'syp-gate' beside 'sypctl' (./quickstart builds both)",
            )
        })?;
        Ok((format!("syp-gate:{}", &hex::encode(Sha256::digest(&bytes))[..12]), bytes))
    }
}

/// Removes all images of gates that no container uses, of any version; their names.
///
/// # Errors
/// The daemon's.
pub async fn remove_gate_images(host: &str) -> Result<Vec<String>, Failure> {
    let d = super::connect(host)?;
    let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL}=1")])]);
    let all = ListImagesOptions { all: false, filters: Some(filters), ..Default::default() };
    let mut removed = Vec::new();
    for image in d.list_images(Some(all)).await.map_err(|e| failed(&e))? {
        match d.remove_image(&image.id, None::<RemoveImageOptions>, None).await {
            Ok(_) => removed.push(image.repo_tags.into_iter().next().unwrap_or(image.id)),
            // it is used, or somebody else removed it
            Err(e) if matches!(code(&e), Some(404 | 409)) => {}
            Err(e) => return Err(failed(&e)),
        }
    }
    Ok(removed)
}

async fn import(d: &Docker, name: &str, binary: &[u8]) -> Result<(), Failure> {
    let tar = archive(binary)
        .map_err(|e| failure(Class::Terminal, "INTERNAL", e.to_string(), "please report this bug"))?;
    let (repo, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let how = CreateImageOptions {
        from_src: Some("-".into()),
        repo: Some(repo.into()),
        tag: Some(tag.into()),
        // one alone: Podman takes several for one
        changes: vec![format!("LABEL {LABEL}=1")],
        ..Default::default()
    };
    let mut progress = d.create_image(Some(how), Some(bollard::body_full(tar.into())), None);
    let mut id = None;
    while let Some(p) = progress.next().await {
        id = p.map_err(|e| failed(&e))?.status.filter(|s| s.starts_with("sha256:")).or(id);
    }
    // Podman (4.3) forgets the tag
    if let Some(id) = id
        && optional(d.inspect_image(name).await)?.is_none()
    {
        let tag = TagImageOptions { repo: Some(repo.into()), tag: Some(tag.into()) };
        d.tag_image(&id, Some(tag)).await.map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// Its files: the program alone, and places for what it is given. The same bytes for the same program.
pub(crate) fn archive(binary: &[u8]) -> std::io::Result<Vec<u8>> {
    let head = |kind, size| {
        let mut head = tar::Header::new_gnu();
        head.set_entry_type(kind);
        head.set_size(size);
        head.set_mode(0o755);
        head.set_uid(0);
        head.set_gid(0);
        head.set_mtime(0);
        head
    };
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut head(tar::EntryType::Regular, binary.len() as u64), "syp-gate", binary)?;
    for dir in ["etc/", "etc/syp/", "tmp/"] {
        tar.append_data(&mut head(tar::EntryType::Directory, 0), dir, std::io::empty())?;
    }
    tar.into_inner()
}
