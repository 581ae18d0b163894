//! Puts an image into a registry, and says what a registry has against it.
use super::{
    image::{self, Image},
    login,
    place::Place,
};
use bytes::Bytes;
use docker_credential::DockerCredential;
use futures_util::stream;
use http::HeaderValue;
use oci_client::{
    Client, RegistryOperation,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::{OciDistributionError as Error, OciEnvelope},
    secrets::RegistryAuth,
};
use std::{error::Error as _, fmt::Write as _, time::Duration};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// How a registry is spoken to. It has no `Debug`: it holds a password.
#[derive(Default)]
pub struct Options {
    /// What `docker login` left.
    pub credentials: Option<DockerCredential>,
    /// Plain HTTP also where it is not this machine.
    pub plain_http: bool,
    /// Certificate authorities to trust instead of the system's, DER.
    pub authorities: Vec<Vec<u8>>,
    /// Longest silence.
    pub limit: Duration,
    /// Look, and send nothing.
    pub plan: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of parts that were sent; 0: the registry had them.
    pub bytes: usize,
    /// The tag is new, or was another image's.
    pub tagged: bool,
}

/// Sends what the registry does not have; `tell` hears of each part that is sent.
///
/// # Errors
/// `REGISTRY_UNREACHABLE`, `IMAGE_AUTH_FAILED`, `REGISTRY_REFUSED`.
pub async fn push(
    place: &Place,
    image: &Image,
    options: &Options,
    tell: impl Fn(String) + Send,
) -> Result<Pushed, Failure> {
    let refused = |e: &Error| refusal(place, options, e);
    let client = greet(place, options, RegistryOperation::Push).await.map_err(|e| refused(&e))?;
    let digest = image.digest();
    if tag(&client, place, options).await.map_err(|e| refused(&e))?.as_ref() == Some(&digest) {
        return Ok(Pushed::default());
    }
    let mut done = Pushed { bytes: 0, tagged: true };
    for part in [&image.layer, &image.config] {
        done.bytes += send(&client, place, part, options.plan, &tell).await.map_err(|e| refused(&e))?;
    }
    if options.plan {
        return Ok(done);
    }
    client
        .push_manifest_raw(&place.0, image.manifest.clone(), HeaderValue::from_static(image::MANIFEST))
        .await
        .map_err(|e| refused(&e))?;
    // a registry that makes something else of it would not give it by this digest
    match tag(&client, place, options).await.map_err(|e| refused(&e))? {
        None => Ok(done),
        Some(kept) if kept == digest => Ok(done),
        Some(kept) => Err(failure(
            Class::Terminal,
            "REGISTRY_REFUSED",
            format!("{} was sent as {digest}, and is kept as {kept}", place.by_tag()),
            "somebody pushed at the same time, or the registry changes images: try again, or use another registry",
        )),
    }
}

/// A client that the registry has answered.
pub(super) async fn greet(
    place: &Place,
    options: &Options,
    operation: RegistryOperation,
) -> Result<Client, Error> {
    let protocols: &[ClientProtocol] = match (options.plain_http, place.is_here()) {
        (true, _) => &[ClientProtocol::Http],
        // as Docker does it; a TLS registry on this machine is one all the same
        (false, true) => &[ClientProtocol::Https, ClientProtocol::Http],
        (false, false) => &[ClientProtocol::Https],
    };
    let mut last = Error::GenericError(None);
    for protocol in protocols {
        let client = Client::try_from(config(protocol.clone(), options))?;
        match client.auth(&place.0, &auth(options.credentials.as_ref()), operation).await {
            Ok(_) => return Ok(client),
            // only a line that could not be opened is tried in another way: a password goes where it belongs
            Err(Error::RequestError(e)) if e.is_connect() => last = Error::RequestError(e),
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

fn config(protocol: ClientProtocol, options: &Options) -> ClientConfig {
    const CONNECT: Duration = Duration::from_secs(10);
    let der = |data: &Vec<u8>| Certificate { encoding: CertificateEncoding::Der, data: data.clone() };
    ClientConfig {
        protocol,
        // one request a part: what every registry takes
        use_monolithic_push: true,
        tls_certs_only: options.authorities.iter().map(der).collect(),
        connect_timeout: Some(CONNECT),
        read_timeout: Some(options.limit).filter(|l| !l.is_zero()),
        user_agent: concat!("sypctl/", env!("CARGO_PKG_VERSION")),
        ..Default::default()
    }
}

pub(super) fn auth(credentials: Option<&DockerCredential>) -> RegistryAuth {
    credentials.map_or(RegistryAuth::Anonymous, |c| {
        let (user, password) = login::pair(c);
        RegistryAuth::Basic(user.to_owned(), password.to_owned())
    })
}

/// What the tag is now; `None`: nothing, or the registry does not say: the push itself will tell who may not.
async fn tag(client: &Client, place: &Place, options: &Options) -> Result<Option<String>, Error> {
    let asked = client.fetch_manifest_digest(&place.0, &auth(options.credentials.as_ref())).await;
    match asked {
        Ok(digest) => Ok(Some(digest)),
        Err(e @ Error::RequestError(_)) => Err(e),
        Err(_) => Ok(None),
    }
}

/// Bytes that had to be sent for a part.
async fn send(
    client: &Client,
    place: &Place,
    part: &Bytes,
    plan: bool,
    tell: &(impl Fn(String) + Send),
) -> Result<usize, Error> {
    let digest = image::digest(part);
    // who is not told whether it is there finds out by sending it
    if client.blob_exists(&place.0, &digest).await.unwrap_or(false) {
        return Ok(0);
    }
    if plan {
        return Ok(part.len());
    }
    tell(format!("sends {digest}, {} kB", part.len().div_ceil(1000)));
    let whole = stream::iter([Ok(part.clone())]);
    client.push_blob_stream(&place.0, whole, &digest, Some(part.len() as u64)).await?;
    Ok(part.len())
}

fn refusal(place: &Place, options: &Options, e: &Error) -> Failure {
    let registry = place.registry();
    let words = words(e);
    match (e, status(e)) {
        (Error::AuthenticationFailure(_) | Error::UnauthorizedError { .. }, _) | (_, Some(401 | 403)) => {
            let who = match options.credentials {
                None => "without a login",
                Some(_) => "with this login",
            };
            let why = format!("{registry} does not take {} {who}: {words}", place.by_tag());
            let next = format!("'docker login {registry}' as somebody who may push there");
            failure(Class::Terminal, "IMAGE_AUTH_FAILED", why, next)
        }
        (Error::RequestError(r), None) => {
            let next = if r.is_connect() && !options.plain_http {
                "see that its name and port are right; --ca-file for a certificate of your own, --plain-http where it has none"
            } else {
                "see that it answers at this name and port, and try again: what it has by then is not sent twice"
            };
            let why = format!("{registry} can't be reached: {words}");
            failure(Class::Transient, "REGISTRY_UNREACHABLE", why, next)
        }
        (_, code) => {
            let next = match code {
                Some(404) => {
                    "some registries want a repository to be made before the first push: make it, or see that the name is right"
                }
                Some(429 | 500..) => "that is the registry's own trouble: try again later",
                _ => "change what its words name; is it a registry of images at all?",
            };
            let why = format!("{registry} refused {}: {words}", place.by_tag());
            failure(Class::Terminal, "REGISTRY_REFUSED", why, next)
        }
    }
}

pub(super) fn status(e: &Error) -> Option<u16> {
    match e {
        Error::ServerError { code, .. } => Some(*code),
        Error::RequestError(r) => r.status().map(|s| s.as_u16()),
        _ => None,
    }
}

/// What was said, in a line of bearable length.
pub(super) fn words(e: &Error) -> String {
    const MOST: usize = 300;
    let said = |envelope: &OciEnvelope| {
        let all: Vec<_> = envelope.errors.iter().map(|e| format!("{:?}: {}", e.code, e.message)).collect();
        all.join("; ")
    };
    let text = match e {
        Error::ServerError { code, message, .. } => match serde_json::from_str(message) {
            Ok(envelope) => said(&envelope),
            Err(_) => format!("status {code} {message}"),
        },
        Error::AuthenticationFailure(body) => {
            serde_json::from_str(body).map_or_else(|_| body.clone(), |e| said(&e))
        }
        Error::RegistryError { envelope, .. } => said(envelope),
        Error::UnauthorizedError { .. } => "not authorized".to_owned(),
        other => {
            let mut text = other.to_string();
            // the reason is at the end of the chain
            let mut next = other.source();
            while let Some(e) = next {
                let _ = write!(text, ": {e}");
                next = e.source();
            }
            text
        }
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, message: &str, credentials: Option<DockerCredential>) -> Failure {
        let place = Place::parse("registry.example.com/gate:1", "").unwrap();
        let options = Options { credentials, ..Default::default() };
        let e = Error::ServerError {
            code,
            url: "https://registry.example.com/v2/".into(),
            message: message.into(),
        };
        refusal(&place, &options, &e)
    }

    #[test]
    fn a_refusal_says_who_what_why_and_what_to_do() {
        let login = Some(DockerCredential::UsernamePassword("alice".into(), "a-secret-of-alice".into()));
        let denied =
            r#"{"errors":[{"code":"DENIED","message":"requested access\nto the resource is denied"}]}"#;
        let f = of(403, denied, login);
        assert_eq!(f.reason, "IMAGE_AUTH_FAILED");
        assert_eq!(
            f.message,
            "registry.example.com does not take registry.example.com/gate:1 with this login: Denied: requested access to the resource is denied"
        );
        assert!(
            f.hint.contains("docker login registry.example.com") && !f.hint.contains("alice"),
            "{}",
            f.hint
        );
        assert!(of(401, "", None).message.contains("without a login"));
        let f = of(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}"#, None);
        assert!(f.reason == "REGISTRY_REFUSED" && f.hint.contains("made before"), "{f:?}");
        let f = of(503, "<html>busy</html>", None);
        assert!(f.message.ends_with("status 503 <html>busy</html>") && f.hint.contains("later"), "{f:?}");
        assert!(of(400, &"long ".repeat(1000), None).message.len() < 400);
    }

    #[test]
    fn a_token_of_docker_login_is_sent_as_a_password() {
        assert!(matches!(auth(None), RegistryAuth::Anonymous));
        let token = DockerCredential::IdentityToken("t".into());
        assert!(
            matches!(auth(Some(&token)), RegistryAuth::Basic(user, t) if user.starts_with("0000") && t == "t")
        );
    }
}
