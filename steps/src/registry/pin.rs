//! Which image a tag is now, so that every replica of a revision runs the same one, whenever its node pulls it.
use super::{
    login::credentials,
    place::Place,
    push::{Options, auth, greet, status, words},
};
use docker_credential::DockerCredential;
use oci_client::{
    Reference, RegistryOperation,
    errors::{OciDistributionError as Error, OciEnvelope, OciErrorCode},
    manifest::OciManifest,
};
use std::time::Duration;

/// A registry that does not answer within this is none that can be asked from here.
const LIMIT: Duration = Duration::from_secs(5);

/// What a registry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pinned {
    /// The image by its digest, and the digest.
    To(String, String),
    /// It has no such image.
    Missing(String),
    /// It does not say: it can't be reached from here, or not with what we have. Nodes may have another way to it.
    Unknown(String),
}

/// The name of an image without tag and digest, as it was written.
pub(crate) fn repository(image: &str) -> &str {
    let repo = image.split('@').next().unwrap_or(image);
    repo.rfind(':').filter(|p| !repo[*p..].contains('/')).map_or(repo, |p| &repo[..p])
}

/// Asks its registry.
pub(crate) async fn pin(image: &str) -> Pinned {
    let reference = match Reference::try_from(image) {
        Ok(r) => r,
        Err(e) => return Pinned::Missing(e.to_string()),
    };
    if let Some(digest) = reference.digest() {
        return Pinned::To(image.to_owned(), digest.to_owned());
    }
    let registry = reference.registry().to_owned();
    match tokio::time::timeout(LIMIT, ask(image, reference)).await {
        Err(_) => Pinned::Unknown(format!("{registry} does not answer")),
        Ok(Ok(digest)) => Pinned::To(format!("{}@{digest}", repository(image)), digest),
        Ok(Err(e)) if is_missing(&e) => Pinned::Missing(format!("{registry} has none: {}", words(&e))),
        Ok(Err(e)) => Pinned::Unknown(format!("{registry}: {}", words(&e))),
    }
}

async fn ask(image: &str, reference: Reference) -> Result<String, Error> {
    let options = Options { credentials: credentials(image).await, limit: LIMIT, ..Default::default() };
    let place = Place(reference);
    let client = greet(&place, &options, RegistryOperation::Pull).await?;
    client.fetch_manifest_digest(&place.0, &auth(options.credentials.as_ref())).await
}

/// Why a registry does not give an image to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It says who may not.
    Denied(String),
    /// It has no such image; some say so to strangers of what they keep, too.
    Missing(String),
}

/// To who has this login, or none; `None`: it gives it, or does not say.
pub(crate) async fn refusal(image: &str, login: Option<DockerCredential>) -> Option<Refusal> {
    let reference = Reference::try_from(image).ok()?;
    let registry = reference.registry().to_owned();
    let asked = async {
        let options = Options { credentials: login, limit: LIMIT, ..Default::default() };
        let place = Place(reference);
        let client = greet(&place, &options, RegistryOperation::Pull).await?;
        client.fetch_manifest_digest(&place.0, &auth(options.credentials.as_ref())).await
    };
    let e = tokio::time::timeout(LIMIT, asked).await.ok()?.err()?;
    let why = format!("{registry}: {}", words(&e));
    match (is_denied(&e), is_missing(&e)) {
        (true, _) => Some(Refusal::Denied(why)),
        (_, true) => Some(Refusal::Missing(why)),
        _ => None,
    }
}

/// As whom an image runs, as its configuration says (`65534:65534`, `nginx`; empty: as root). `None`: its registry does not say.
pub(crate) async fn user(image: &str) -> Option<String> {
    let reference = Reference::try_from(image).ok()?;
    let asked = async {
        let options = Options { credentials: credentials(image).await, limit: LIMIT, ..Default::default() };
        let place = Place(reference);
        let client = greet(&place, &options, RegistryOperation::Pull).await?;
        let auth = auth(options.credentials.as_ref());
        client.pull_manifest_and_config(&place.0, &auth).await.map(|(_, _, config)| config)
    };
    let config = tokio::time::timeout(LIMIT, asked).await.ok()?.ok()?;
    let config: serde_json::Value = serde_json::from_str(&config).ok()?;
    Some(config["config"]["User"].as_str().unwrap_or_default().to_owned())
}

/// For which processors an image is, as its registry says it. `None`: it does not say.
pub(crate) async fn architectures(image: &str) -> Option<Vec<String>> {
    let reference = Reference::try_from(image).ok()?;
    let asked = async {
        let options = Options { credentials: credentials(image).await, limit: LIMIT, ..Default::default() };
        let place = Place(reference);
        let client = greet(&place, &options, RegistryOperation::Pull).await?;
        let auth = auth(options.credentials.as_ref());
        match client.pull_manifest(&place.0, &auth).await?.0 {
            OciManifest::ImageIndex(index) => {
                let all = index.manifests.into_iter().filter_map(|m| m.platform);
                Ok(all.map(|p| p.architecture.to_string()).collect())
            }
            OciManifest::Image(_) => {
                let config = client.pull_manifest_and_config(&place.0, &auth).await?.2;
                let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
                Ok::<_, Error>(config["architecture"].as_str().map(str::to_owned).into_iter().collect())
            }
        }
    };
    let all: Vec<String> = tokio::time::timeout(LIMIT, asked).await.ok()?.ok()?;
    Some(all).filter(|a| !a.is_empty())
}

/// It says who may not, and not that it is busy. Pure.
fn is_denied(e: &Error) -> bool {
    let says = |code: &OciErrorCode| matches!(code, OciErrorCode::Denied | OciErrorCode::Unauthorized);
    let of = |envelope: &OciEnvelope| envelope.errors.iter().any(|e| says(&e.code));
    match e {
        // whatever a token server answers instead of a token, 429 and 503 too, with nothing but its words
        Error::AuthenticationFailure(body) => serde_json::from_str(body).is_ok_and(|e| of(&e)),
        Error::UnauthorizedError { .. } => true,
        Error::RegistryError { envelope, .. } => of(envelope),
        e => matches!(status(e), Some(401 | 403)),
    }
}

/// Registries that hide what they have from strangers say "denied" instead. Pure.
fn is_missing(e: &Error) -> bool {
    let says =
        |code: &OciErrorCode| matches!(code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown);
    match e {
        Error::ImageManifestNotFoundError(_) => true,
        Error::RegistryError { envelope, .. } => envelope.errors.iter().any(|e| says(&e.code)),
        e => status(e) == Some(404),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_the_name_as_it_was_written() {
        for (image, want) in [
            ("nginx", "nginx"),
            ("nginx:1.27", "nginx"),
            ("localhost:5000/a/b", "localhost:5000/a/b"),
            ("localhost:5000/a/b:1@sha256:00", "localhost:5000/a/b"),
        ] {
            assert_eq!(repository(image), want, "{image}");
        }
    }

    #[tokio::test]
    async fn who_is_not_there_says_nothing_about_an_image() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(pin(&format!("{free}/shop:1")).await, Pinned::Unknown(_)));
        let digest = format!("sha256:{}", "0".repeat(64));
        let image = format!("{free}/shop@{digest}");
        assert_eq!(pin(&image).await, Pinned::To(image.clone(), digest));
        assert!(matches!(pin("Not An Image").await, Pinned::Missing(_)));
    }

    #[test]
    fn only_a_registry_that_says_so_has_no_such_image() {
        let of = |code| Error::ServerError { code, url: String::new(), message: String::new() };
        assert!(is_missing(&of(404)));
        assert!(!is_missing(&of(401)) && !is_missing(&of(503)));
        assert!(is_denied(&of(401)) && is_denied(&of(403)));
        assert!(!is_denied(&of(404)) && !is_denied(&of(429)) && !is_denied(&of(503)), "busy is no answer");
        let token = |body: &str| is_denied(&Error::AuthenticationFailure(body.into()));
        assert!(token(r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#));
        assert!(
            !token(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow"}]}"#) && !token("<html>busy")
        );
    }
}
