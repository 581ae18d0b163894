//! What `docker login` left for a registry, itself or with a credential helper.
use docker_credential::DockerCredential;
use secrecy::SecretString;
use serde_json::{Map, json};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// For the registry of an image; `None`: the registry will say whether it needs any.
pub async fn credentials(image: &str) -> Option<DockerCredential> {
    let server = server(image).to_owned();
    // a credential helper is a program: it may take its time
    let found = tokio::task::spawn_blocking(move || {
        docker_credential::get_credential(&server)
            .inspect_err(|e| tracing::debug!(registry = server, error = %e, "no credentials"))
    });
    found.await.ok()?.ok()
}

/// The login for the registry of an image, for whoever pulls it instead of the engine (`to`: "the nodes").
///
/// # Errors
/// `IMAGE_AUTH_FAILED`: there is none.
pub(crate) async fn handed_on(image: &str, to: &str) -> Result<DockerCredential, Failure> {
    let server = server(image);
    credentials(image).await.ok_or_else(|| {
        failure(
            Class::Terminal,
            "IMAGE_AUTH_FAILED",
            format!("the engine has no login for {server} that it could give to {to}"),
            format!(
                "'docker login {server}' as the user that the engine runs as, or leave --pull-login away"
            ),
        )
    })
}

/// Does it end within hours? Whoever pulls later could not: tokens of `az acr login`, of gcloud and of its helper. Pure.
pub(crate) fn is_short(c: &DockerCredential) -> bool {
    match c {
        DockerCredential::IdentityToken(_) => true,
        DockerCredential::UsernamePassword(user, _) => {
            ["oauth2accesstoken", "_dcgcloud_token", "gcloud"].contains(&user.as_str())
        }
    }
}

/// User and password, as a registry takes them.
pub(crate) fn pair(c: &DockerCredential) -> (&str, &str) {
    // the user that a registry expects beside a token from 'docker login'
    const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";
    match c {
        DockerCredential::UsernamePassword(user, password) => (user, password),
        DockerCredential::IdentityToken(token) => (TOKEN_USER, token),
    }
}

/// The logins for the registries of these images, as the file of `docker login` holds them; those that have none are left out.
pub async fn config_of(images: &[&str]) -> SecretString {
    let mut auths = Map::new();
    for image in images {
        if let Some(c) = credentials(image).await {
            let (user, password) = pair(&c);
            auths.insert(server(image).to_owned(), json!({ "username": user, "password": password }));
        }
    }
    json!({ "auths": auths }).to_string().into()
}

/// The name under which `docker login` keeps a registry.
pub(crate) fn server(image: &str) -> &str {
    const HUB: &str = "https://index.docker.io/v1/";
    match image.split_once('/') {
        Some(("docker.io" | "index.docker.io", _)) => HUB,
        Some((first, _)) if super::place::is_registry(first) => first,
        _ => HUB,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_looked_up_as_docker_keeps_it() {
        for (image, want) in [
            ("localhost/shop", "localhost"),
            ("registry.example.com:5000/a/b:1", "registry.example.com:5000"),
            ("shop", "https://index.docker.io/v1/"),
            ("alice/shop:1", "https://index.docker.io/v1/"),
            ("docker.io/alice/shop:1", "https://index.docker.io/v1/"),
        ] {
            assert_eq!(server(image), want, "{image}");
        }
    }
}
